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

"""Read, map and check arrays of ``.npz`` archives."""

from __future__ import annotations

import logging
import os
import shutil
import struct
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np

from monai_weckd.utils.errors import plain_reason

__all__ = ["array_header", "check_array", "map_array", "read_array"]

logger = logging.getLogger(__name__)

# errors that zipfile and NumPy raise for damaged, encrypted or foreign bytes, and for a missing member
_FAULTS = (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, RuntimeError, struct.error)
_CHUNK = 1 << 20


def map_array(path: str, name: str) -> np.ndarray:
    """Map an array of a ``.npz`` archive into memory, without reading it.

    A stored array is mapped in place. A compressed array is extracted once, to ``<archive>.<name>.<checksum>.npy``
    beside the archive or, if that folder is read-only, in a temporary folder of the user. A copy whose content does not
    have that checksum is made anew.

    Args:
        path: the archive.
        name: the array's name.

    Raises:
        FileNotFoundError: When there is no archive.
        ValueError: When the archive or the array cannot be read, or would need pickle.

    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: expected an .npz archive, got no file there. Correct the path.")
    return _map(path, name, os.stat(path).st_mtime_ns)


def read_array(path: str, name: str) -> np.ndarray:
    """Read an array of a ``.npz`` archive.

    Args:
        path: the archive.
        name: the array's name.

    Raises:
        ValueError: When the archive or the array cannot be read, or would need pickle.

    """
    with _opened(path) as archive, archive.open(f"{name}.npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def array_header(path: str, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and type of an array of a ``.npz`` archive; only its header is read.

    Args:
        path: the archive.
        name: the array's name.

    Raises:
        ValueError: When the archive or the array cannot be read, or would need pickle.

    """
    with _opened(path) as archive, archive.open(f"{name}.npy") as stream:
        shape, _, dtype = _header(stream)
        return shape, dtype


def check_array(path: str, name: str) -> None:
    """Read an array of a ``.npz`` archive once and verify its checksum.

    Args:
        path: the archive.
        name: the array's name.

    Raises:
        ValueError: When the archive or the array cannot be read.

    """
    with _opened(path) as archive, archive.open(f"{name}.npy") as stream:
        while stream.read(_CHUNK):  # zipfile compares the checksum when it reaches the end
            pass


@contextmanager
def _opened(path: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _FAULTS as error:
        reason = plain_reason(error, otherwise=" ".join(str(error).split()))
        raise ValueError(
            f"{path}: expected a sound .npz archive, got one with this fault: {reason}. Download it again."
        ) from error


# the modification time is part of the key, so that a replaced archive is mapped anew
@lru_cache(maxsize=16)
def _map(path: str, name: str, changed: int) -> np.ndarray:
    with _opened(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type == zipfile.ZIP_STORED:
            return _memmap(path, _offset(path, member))
        return _memmap(_extract(archive, member, path), 0)


def _memmap(path: str, offset: int) -> np.ndarray:
    with open(path, "rb") as stream:
        stream.seek(offset)
        shape, fortran_order, dtype = _header(stream)
        return np.memmap(path, dtype, "r", stream.tell(), shape, "F" if fortran_order else "C")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    first = np.lib.format.read_magic(stream) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which would need pickle")
    return shape, fortran_order, dtype


def _offset(path: str, member: zipfile.ZipInfo) -> int:
    """Return where a member's bytes begin, by its local header; the entry in the directory may differ."""
    with open(path, "rb") as stream:
        stream.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", stream.read(4))
    return member.header_offset + 30 + name + extra


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: str) -> str:
    """Return the path of a member's extracted copy, and create the copy if it is missing."""
    # the checksum in the name ties the copy to this archive's content
    name = f"{Path(path).stem}.{Path(member.filename).stem}.{member.CRC:08x}.npy"
    place = os.path.dirname(path)
    if not os.path.isfile(os.path.join(place, name)) and not os.access(place, os.W_OK):
        place = _user_folder()
    copy = os.path.join(place, name)
    if os.path.isfile(copy):
        if _checksum(copy) == member.CRC:
            return copy
        logger.warning("%s: the copy of the array is damaged and made anew", copy)
    # a unique name until it is complete, because other processes may extract it at the same time; with the permissions
    # of any new file, because data folders are shared
    part = os.path.join(place, f".{name}.{uuid.uuid4().hex}")
    try:
        with open(part, "xb") as target, archive.open(member) as source:
            shutil.copyfileobj(source, target, _CHUNK)
        os.replace(part, copy)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return copy


def _checksum(path: str) -> int:
    found = 0
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    return found


def _user_folder() -> str:
    """Return a temporary folder for copies that no other user can write to."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = os.path.join(tempfile.gettempdir(), f"monai_weckd-{user}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if user and os.stat(folder).st_uid != user:
        raise PermissionError(f"{folder}: expected a folder of user {user}, got another's. Remove it or set TMPDIR.")
    return folder
