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

import errno
import io
import logging
import math
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

from monai_weckd.utils.budget import VARIABLE, BudgetError, budgeted, claim, memory_budget
from monai_weckd.utils.errors import plain_reason

__all__ = ["array_header", "check_array", "map_array", "read_array"]

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_MOST_HEADER = 10_000  # bytes, as NumPy has it
_MOST_RATIO = 100  # of extracted to compressed bytes, beyond the budget: pictures have less than ten
_DISK = 0.9  # of its free room


def map_array(path: str, name: str) -> np.ndarray:
    """Map an array of a ``.npz`` archive into memory, without reading it.

    A stored array is mapped in place. A compressed array is extracted once, to ``<archive>.<name>.<checksum>.npy``
    beside the archive or, if that folder is read-only, in a temporary folder of the user. A copy whose content does not
    match the checksum is extracted again.

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


@budgeted
def read_array(path: str, name: str) -> np.ndarray:
    """Read an array of a ``.npz`` archive.

    Args:
        path: the archive.
        name: the array's name.

    Raises:
        ValueError: When the archive or the array cannot be read, or would need pickle.

    """
    with _opened(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        shape, is_fortran, dtype = _member_header(archive, member)
        count = math.prod(shape) * dtype.itemsize
        claim(3 * count)  # as it is put together, its bytes, and the array
        with archive.open(member) as stream:
            _header(stream)
            content = bytearray(stream.read(count))
            stream.read(1)  # zipfile compares the checksum when it reaches the end
        return np.ndarray(shape, dtype, content, order="F" if is_fortran else "C")


def array_header(path: str, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and type of an array of a ``.npz`` archive; only its header is read.

    Args:
        path: the archive.
        name: the array's name.

    Raises:
        ValueError: When the archive or the array cannot be read, or would need pickle.

    """
    with _opened(path) as archive:
        shape, _, dtype = _member_header(archive, archive.getinfo(f"{name}.npy"))
        return shape, dtype


def check_array(path: str, name: str) -> None:
    """Read an array of a ``.npz`` archive once and verify its checksum.

    Args:
        path: the archive.
        name: the array's name.

    Raises:
        ValueError: When the archive or the array cannot be read.

    """
    with _opened(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        _member_header(archive, member)
        stream = archive.open(member)
        while stream.read(_CHUNK):  # zipfile compares the checksum when it reaches the end
            pass


@contextmanager
def _opened(path: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except BudgetError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # zipfile and NumPy raise anything for damaged, encrypted or foreign bytes
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # the last for a place before the file
            raise
        reason = plain_reason(error, otherwise=" ".join(str(error).split())[:200])
        raise ValueError(
            f"{path}: expected a sound .npz archive, got one with this fault: {reason}. Download it again."
        ) from error


# the modification time is part of the key, so that a replaced archive is mapped anew
@lru_cache(maxsize=16)
def _map(path: str, name: str, changed: int) -> np.ndarray:
    with _opened(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        _member_header(archive, member)
        if member.compress_type == zipfile.ZIP_STORED:
            return _memmap(path, _offset(path, member))
        return _memmap(_extract(archive, member, path), 0)


def _memmap(path: str, offset: int) -> np.ndarray:
    with open(path, "rb") as stream:
        stream.seek(offset)
        shape, fortran_order, dtype = _header(stream)
        return np.memmap(path, dtype, "r", stream.tell(), shape, "F" if fortran_order else "C")


def _member_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order and type of an array, which are those of its bytes by the directory of the archive."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("a compression that NumPy does not write")
    with archive.open(member) as stream:
        shape, is_fortran, dtype = _header(stream)
        start = stream.tell()
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed != member.file_size - start:
        raise ValueError(f"an array of {member.file_size - start:,} bytes, of which its header claims {claimed:,}")
    return shape, is_fortran, dtype


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order and type from the start of an array; a header of any length is not read."""
    begin = stream.read(12)
    is_first = begin[6:7] == b"\1"
    size = 10 + int.from_bytes(begin[8:10], "little") if is_first else 12 + int.from_bytes(begin[8:12], "little")
    if size > _MOST_HEADER:
        raise ValueError(f"a header of {size:,} bytes")
    header = io.BytesIO(begin + stream.read(max(0, size - len(begin))))
    np.lib.format.read_magic(header)
    read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(header)
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
        logger.warning("%s: the copy of the array is damaged and is extracted again", copy)
    # until the copy is complete it has a unique name, because other processes may extract it, too; open() and not
    # tempfile, because data folders are shared and the copy needs ordinary permissions
    part = os.path.join(place, f".{name}.{uuid.uuid4().hex}")
    _check_room(member, place)
    try:
        with open(part, "xb") as target, archive.open(member) as source:
            shutil.copyfileobj(source, target, _CHUNK)
        os.replace(part, copy)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return copy


def _check_room(member: zipfile.ZipInfo, place: str) -> None:
    """Refuse an array that the disk has no room for, or that is little more than a short text for many zeros."""
    most = max(memory_budget(), _MOST_RATIO * member.compress_size)
    room = int(shutil.disk_usage(place).free * _DISK)
    if member.file_size > min(most, room):
        remedy = "Free some room." if room < most else f"Raise {VARIABLE} if that is right."
        raise BudgetError(
            f"expected an array of at most {min(most, room):,} bytes to extract, got {member.file_size:,}. {remedy}"
        )


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
