# Copyright (c) monai_weckd contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Digests of image files and descriptions of transforms, which together form the keys of a file cache."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, NoReturn

import numpy as np
import torch

from monai_weckd.data.dicom.references import parse_series
from monai_weckd.data.medmnist import parse_reference

__all__ = ["UndescribedError", "content_key", "describe", "digest"]

# packages in which a name and the package's version identify code
_KNOWN = ("monai_weckd", "monai", "torch", "numpy", "builtins")
# state of transforms that does not affect a cache: random generators, and data kept between calls
_STATE = (np.random.RandomState, np.random.Generator, threading.local)


class UndescribedError(TypeError):
    """A transform that cannot be described, so that images in a file cannot be matched to it."""


def content_key(image: str | os.PathLike[str], memory: dict[str, str]) -> str:
    """Return a digest of an image's bytes: those of a file, of the files of a folder, or of an archive.

    Args:
        image: path of a file or a folder, or ``<archive>.npz::<split>/<index>``.
        memory: digests of the archives seen so far, so that each is read once.

    """
    reference = parse_reference(str(image))
    if reference is not None:
        if reference.archive not in memory:
            memory[reference.archive] = _file_digest(Path(reference.archive))
        return digest(memory[reference.archive], reference.split, str(reference.number))
    series = parse_series(image)
    if series is not None:
        return digest(content_key(series[0], memory), series[1])
    path = Path(image)
    if path.is_dir():
        return digest(*(_file_digest(file) for file in sorted(path.iterdir()) if file.is_file()))
    return _file_digest(path)


def describe(value: Any) -> Any:
    """Describe a transform for JSON by its class, version and settings, without random states.

    A name identifies the code of a class or function only if its package is installed and has a version. Other
    functions may call code that changes unnoticed, so they are refused: the cache must never serve images that
    different code made. To allow such a function, give it an attribute ``recipe``, a text that says what it does with
    which settings. Change this text whenever the code changes.

    Args:
        value: a transform, or any part of one.

    Raises:
        UndescribedError: When a part comes from elsewhere than PyTorch, MONAI, NumPy, Python's builtins and this
            package.

    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return [type(value).__name__, repr(value)]
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return _describe_array(value)
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(describe, value)]
    if isinstance(value, Mapping):
        return [
            type(value).__name__,
            *sorted(([describe(key), describe(item)] for key, item in value.items()), key=str),
        ]
    if isinstance(value, (set, frozenset)):
        return [type(value).__name__, *sorted(map(str, map(describe, value)))]
    return _describe_object(value)


def _describe_array(value: np.ndarray | torch.Tensor) -> list[Any]:
    array = value.detach().cpu().resolve_conj() if isinstance(value, torch.Tensor) else value
    if isinstance(array, torch.Tensor):
        content, kind = array.contiguous().flatten().view(torch.uint8).numpy().tobytes(), str(array.dtype)
    else:
        if type(array) is not np.ndarray or array.dtype.hasobject:
            _refuse(value)
        content, kind = np.ascontiguousarray(array).tobytes(), array.dtype.str
    return [kind, list(value.shape), hashlib.blake2b(content, digest_size=20).hexdigest()]


def _describe_object(value: Any) -> Any:
    if isinstance(recipe := getattr(value, "recipe", None), str):
        return ["recipe", recipe]
    if isinstance(value, (torch.dtype, torch.device, np.dtype, np.generic, Enum)):
        return [type(value).__qualname__, str(value)]
    if isinstance(value, partial):
        return ["partial", describe(value.func), describe(value.args), describe(value.keywords)]
    if isinstance(value, MethodType):
        return ["method", value.__name__, describe(value.__self__)]
    if isinstance(value, (type, FunctionType, BuiltinFunctionType, np.ufunc)):
        return _describe_name(value)
    if not hasattr(value, "__dict__"):
        _refuse(value)
    settings = {name: part for name, part in vars(value).items() if not isinstance(part, _STATE)}
    return [_describe_name(type(value)), describe(settings)]


def _describe_name(value: Any) -> list[str]:
    """Return module, name and version of a class or function, if its module holds it under its own name."""
    module = sys.modules.get(str(getattr(value, "__module__", None)))
    package = sys.modules.get(module.__name__.partition(".")[0]) if module is not None else None
    if module is None or package is None or package.__name__ not in _KNOWN:
        _refuse(value)
    # the qualified names of PyTorch's functions belong to a hidden class
    names = [name for name in (value.__qualname__, value.__name__) if _find(module, name) is value]
    if not names:
        _refuse(value)
    return [module.__name__, names[0], str(getattr(package, "__version__", sys.version))]


def _find(place: Any, name: str) -> Any:
    for part in name.split("."):
        place = getattr(place, part, None)
    return place


def _refuse(value: Any) -> NoReturn:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    name, module = getattr(value, "__qualname__", None), getattr(value, "__module__", "")
    raise UndescribedError(
        f"transform: expected classes and functions of {', '.join(_KNOWN)}, "
        f"got {f'{module}.{name}' if name else f'a {kind}'}. "
        "Images are kept in memory. To keep them in a file, use these, or add a text `recipe` that says what it does."
    )


def _file_digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=20)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest(*parts: str) -> str:
    """Return a digest of several texts, as long as a key.

    Args:
        parts: the texts.

    """
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=20).hexdigest()
