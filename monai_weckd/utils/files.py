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

"""Write and read files atomically, with digests."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch.serialization import get_crc32_options, set_crc32_options

__all__ = [
    "finish_writing",
    "link_or_copy",
    "load_tensors",
    "pack_state",
    "read_state",
    "replace_text",
    "state_bytes",
    "sync_folder",
    "write_atomically",
    "write_behind",
    "write_error",
    "write_state",
]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DIGEST = hashlib.sha256().digest_size
# by file, because another run in this process may write where one has just failed
_writing: dict[Path, _Write] = {}


def write_atomically(path: str | os.PathLike[str], content: str | bytes | memoryview) -> None:
    """Write a file atomically: readers see the old or the new file and never a part, even after a power failure.

    Args:
        path: the file.
        content: its content; text is written as UTF-8, and file names that are not UTF-8 keep their bytes.

    Raises:
        OSError: When the disk is full, or the folder cannot be written to; the old file stays.

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
        sync_folder(path.parent)
    except OSError as error:
        if os.path.isfile(part):  # pathlib raises for a name that is too long
            part.unlink()
        # without a cause, so that this error, which names the file, is the first of the chain
        raise write_error(path, error, size=len(data)) from None


def write_error(path: Path, error: OSError, *, size: int | None = None) -> OSError:
    """Return an error of the same kind that says what happened to a file that could not be written, and what to do.

    Args:
        path: the file.
        error: what the system said.
        size: size of the file in bytes, default None: unknown.

    """
    if error.errno in _NO_ROOM:
        wanted = "room" if size is None else f"room for {size:,} bytes"
        text = f"expected {wanted}, got {error.strerror!r}. Free some space"
    else:
        text = f"expected a file that can be written, got {error.strerror!r}. {_remedy(error)}"
    return type(error)(f"{path}: {text} and go on with resume; what was written before is whole.")


def _remedy(error: OSError) -> str:
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return "Let this user write to its folder"
    if isinstance(error, FileNotFoundError):
        return "Put its folder back"
    if isinstance(error, (IsADirectoryError, NotADirectoryError)):
        return "Move away what is in its place, or in the place of its .part file"
    if error.errno == errno.ENAMETOOLONG:
        return "Pass a shorter name"
    return "Look at the disk"


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links; an old target is replaced.

    Args:
        source: a file that programs replace and never change in place.
        target: the second name.

    Raises:
        OSError: When there is no room for a copy.

    """
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:  # another file system, or one without links
        write_atomically(target, source.read_bytes())
        return
    os.replace(part, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename durable; only POSIX systems can do this, or need it.

    Args:
        folder: the folder of the renamed file.

    """
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


def pack_state(state: Mapping[str, Any]) -> io.BytesIO:
    """Return a state as it is now, in the form of ``torch.save``.

    Args:
        state: tensors and plain Python values, in dictionaries, lists and tuples.

    Raises:
        TypeError: When it holds anything else, because ``weights_only`` would refuse it.

    """
    buffer, checksums = io.BytesIO(), get_crc32_options()
    # PyTorch's own checksums take as long as everything else, and do not cover the whole file
    set_crc32_options(False)
    try:
        torch.save(_plain(state, "state"), buffer)
    finally:
        set_crc32_options(checksums)
    return buffer


def write_state(path: str | os.PathLike[str], packed: io.BytesIO) -> None:
    """Write a state atomically, followed by its SHA-256 digest.

    Args:
        path: the file, which ``torch.load(path, weights_only=True)`` reads as well.
        packed: from :py:func:`pack_state`, to be written once.

    Raises:
        OSError: When there is no room for it; the old file stays.

    """
    packed.write(hashlib.sha256(packed.getbuffer()).digest())
    write_atomically(path, packed.getbuffer())


class _Write(Thread):
    """A thread that runs :py:func:`write_state` during the training; Python waits for it at exit."""

    def __init__(self, path: Path, packed: io.BytesIO) -> None:
        super().__init__(name=f"write {path.name}")
        self.path, self.packed = path, packed
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            write_state(self.path, self.packed)
        except OSError as error:
            self.error = error


def write_behind(path: str | os.PathLike[str], packed: io.BytesIO) -> None:
    """Write a state as :py:func:`write_state` does, in the background.

    Args:
        path: the file.
        packed: from :py:func:`pack_state`.

    Raises:
        OSError: When the disk was full for the state written to this file before.

    """
    finish_writing(path)
    key = Path(path).absolute()
    _writing[key] = _Write(key, packed)
    _writing[key].start()


def finish_writing(path: str | os.PathLike[str]) -> None:
    """Wait until the write that :py:func:`write_behind` has started is on disk.

    Args:
        path: the file.

    Raises:
        OSError: When the disk was full; the old file stays.

    """
    write = _writing.pop(Path(path).absolute(), None)
    if write is None:
        return
    write.join()
    if write.error is not None:
        raise write.error


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
    return load_tensors(data, path)


def load_tensors(content: bytes, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the tensors and plain values in the bytes of a file of PyTorch; no code in it is run.

    Args:
        content: the bytes.
        path: the file, for the error.

    Raises:
        ValueError: When they hold anything else.

    """
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # other bytes may raise anything; PyTorch's advice must not be followed
        raise ValueError(
            f"{path}: expected tensors that torch.save has written, got what cannot be read as such "
            f"({type(error).__name__}). Restore the file from a copy, or begin anew with overwrite."
        ) from None
    return state


def _plain(value: Any, place: str) -> Any:
    """Return a state with Python's numbers in place of NumPy's, or raise a TypeError that names any other object."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, torch.Tensor):  # ``weights_only`` would refuse the metadata of a MetaTensor
        return value.detach().as_subclass(torch.Tensor)
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


def replace_text(path: Path, text: str) -> None:
    """Replace a text file: readers see the old or the new file, even if several processes write it at once.

    Args:
        path: the file.
        text: its content.

    """
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    os.replace(part, path)
