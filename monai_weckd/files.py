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

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["read_state", "state_bytes", "write_atomically", "write_state"]

_DIGEST = hashlib.sha256().digest_size


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file so that a reader finds the old or the new one, never a part, even after the power has failed.

    Args:
        path: the file.
        content: its content; text is written as UTF-8, in which a file name that is not keeps its bytes.

    Raises:
        OSError: When there is no room for it, or no folder to write to; the old file stays.

    """
    path = Path(path)
    data = content.encode("utf-8", errors="surrogateescape") if isinstance(content, str) else content
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        # no cause: whoever looks for the first error of a chain shall find this one, which names the file
        raise OSError(
            f"{path}: expected room for {len(data):,} bytes beside what is there, got {error.strerror!r}. "
            "Free some and go on with resume; what was written before is whole."
        ) from None


def _sync_folder(folder: Path) -> None:
    """Make sure that a renamed file keeps its name; only POSIX systems can, or need to."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def state_bytes(state: Mapping[str, Any]) -> bytes:
    """Return a state in the form of ``torch.save``.

    Args:
        state: such as a ``state_dict``.

    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def write_state(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a state atomically: what ``torch.save`` makes of it, and then the SHA-256 digest of that.

    Args:
        path: the file, which ``torch.load(path, weights_only=True)`` reads as well.
        state: tensors and plain Python values, in dictionaries, lists and tuples.

    Raises:
        TypeError: When it holds anything else, which ``weights_only`` would refuse.
        OSError: When there is no room for it; the old file stays.

    """
    data = state_bytes(_plain(state, "state"))
    write_atomically(path, data + hashlib.sha256(data).digest())


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the state in a file of :py:func:`write_state`, with its tensors on the CPU.

    Args:
        path: the file.

    Raises:
        ValueError: When a bit of the file has changed, or some of it is missing.

    """
    content = Path(path).read_bytes()
    data, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(data).digest() != digest:
        raise ValueError(
            f"{path}: expected the content that was written, got {len(content):,} bytes with another digest. "
            "The file is damaged: restore it from a copy, or begin anew with overwrite."
        )
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def _plain(value: Any, place: str) -> Any:
    """Return a state with Python's numbers in the place of NumPy's, or raise a TypeError that names what is no data."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, Counter):  # as the milestones of a scheduler
        return value
    if isinstance(value, Mapping):
        return {key: _plain(part, f"{place}#{key}") for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_plain(part, f"{place}#{number}") for number, part in enumerate(value)]
        return parts if isinstance(value, list) else tuple(parts)
    raise TypeError(
        f"{place}: expected tensors and plain Python values, got {type(value).__name__}. Leave it out of state_dict()."
    )
