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

import difflib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "UNLABELED",
    "available_processors",
    "first_cause",
    "json_digest",
    "limit_threads",
    "nearest",
    "one_error",
    "parse_value",
    "sealed_json",
    "split_assignment",
]

# the label of an item whose label nobody has revealed
UNLABELED = -1


def nearest(key: str, valid: list[str] | tuple[str, ...]) -> str:
    """Return a hint with the valid key nearest to a mistyped one, or all of them where none is near.

    Example::

        >>> nearest("disjont", ["disjoint", "cumulative"])
        "Did you mean 'disjoint'?"

    """
    match = difflib.get_close_matches(str(key), valid, n=1)
    return f"Did you mean {match[0]!r}?" if match else f"Valid: {', '.join(map(repr, valid))}."


def split_assignment(text: str) -> tuple[str, str]:
    """Return key and value of ``KEY=VALUE``, as ``--set`` takes it.

    Args:
        text: the argument.

    Raises:
        ValueError: When there is no key or no equals sign.

    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"set: expected KEY=VALUE, got {text!r}. Write for example --set batch_size=8.")
    return key, value


def parse_value(text: str) -> Any:
    """Return a number, list or the like where the text is one in JSON, else the text.

    Args:
        text: the value of an option.

    Example::

        >>> parse_value("8"), parse_value("[1, 2]"), parse_value("auto")
        (8, [1, 2], 'auto')

    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def first_cause(error: BaseException) -> BaseException:
    """Return the error that others were raised from: monai.bundle wraps it in those that name an expression.

    Args:
        error: the last error.

    """
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def one_error() -> Iterator[None]:
    """Raise the error that stands behind those of MONAI, which name the place in a configuration and not the cause."""
    try:
        yield
    except RuntimeError as error:
        cause = first_cause(error)
        if cause is error:
            raise
        raise cause from None


def json_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of an object, in hexadecimal.

    Args:
        content: the object; its keys are text.

    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed_json(content: Mapping[str, Any], *, indent: int) -> str:
    """Return an object as JSON with its digest in it, so that who reads it can tell whether it is as it was written.

    Args:
        content: the object.
        indent: spaces for each level.

    """
    return json.dumps({**content, "digest": json_digest(content)}, indent=indent) + "\n"


def available_processors(quota: str | os.PathLike[str] = "/sys/fs/cgroup/cpu.max") -> int:
    """Return how many processors this process may use, by its affinity and a container's quota.

    Args:
        quota: file with the container's quota, ``<microseconds or max> <period>``; it need not exist.

    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux knows it
        count = os.cpu_count() or 1
    path = Path(quota)
    if path.is_file():
        allowed, period = path.read_text(encoding="ascii").split()
        if allowed != "max":
            count = min(count, max(1, math.floor(int(allowed) / int(period))))
    return count


def limit_threads(most: int = 8) -> int:
    """Let torch use the processors of this process, but no more than ``most``, and return the number of threads.

    A batch of some dozen small images has no work for more, which only wait for each other. ``OMP_NUM_THREADS``, where
    it is set, is left in charge. The number changes the order of summation, and so the last bits of a training.

    Args:
        most: largest number of threads, default 8.

    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(most, available_processors()))
    return torch.get_num_threads()
