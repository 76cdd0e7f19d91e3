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

"""Find and read the files that form one DICOM series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.misc import is_dicom
from pydicom.uid import UID

from monai_weckd.data.dicom.errors import DicomReadError, named_errors
from monai_weckd.data.dicom.header import read_dicom, standard_name
from monai_weckd.data.dicom.patients import read_keys
from monai_weckd.data.dicom.references import parse_series
from monai_weckd.data.file_names import DICOM_SUFFIXES, is_litter

__all__ = ["read_series"]

_PREAMBLE = 132  # bytes, with the prefix


def read_series(
    paths: Sequence[str], series_uid: str | None = None, *, tags: Sequence[int] = ()
) -> list[tuple[str, Dataset]]:
    """Read the files of one series, unordered. Each file is read once; with ``series_uid``, its header is read twice.

    Args:
        paths: one file, one folder, a reference to one series in a folder, or the files of a series.
            In a folder, what is not a DICOM image is ignored.
        series_uid: the series to read. Defaults to ``None``: there must be only one.
        tags: further elements to read. Defaults to none.

    Returns:
        File names and data sets, at least one.

    Raises:
        DicomReadError: When a file cannot be read, there are several series, not the one named, or none.
    """
    reference = parse_series(paths[0]) if len(paths) == 1 else None
    if reference is not None:
        paths, series_uid = [reference[0]], reference[1]
    if len(paths) == 1 and Path(paths[0]).is_dir():
        with named_errors(paths[0]):
            names, is_folder = _files_in(Path(paths[0])), True
    else:
        names, is_folder = list(paths), False
    if reference is not None:
        # the series of a file without a readable header is unknown; when series are listed, it counts as a single image
        names = [name for name in names if read_keys(name) is not None]
    series = _by_series(names, tags=tags, pixels=series_uid is None, pictures_only=is_folder)
    if not series:
        raise DicomReadError(f"{', '.join(paths)}: expected DICOM images, got none (sub-folders are not searched).")
    if series_uid is not None:
        if series_uid not in series:
            raise DicomReadError(f"{paths[0]}: expected series {series_uid}, got {_summary(series)}. Pass one of them.")
        chosen = [name for name, _ in series[series_uid]]
        series = _by_series(chosen, tags=tags, pixels=True, pictures_only=False)
    if len(series) > 1:
        raise DicomReadError(f"{paths[0]}: expected one series, got {_summary(series)}. Pass series_uid= one of them.")
    return next(iter(series.values()))


def _files_in(folder: Path) -> list[str]:
    """Return the files of a folder that are DICOM by suffix or prefix; hidden files and system files are left out."""
    files = sorted(path for path in folder.iterdir() if not (path.is_dir() or is_litter(path.name)))
    known = [path for path in files if path.suffix.lower() in DICOM_SUFFIXES or (path.exists() and is_dicom(path))]
    bare = any(path.suffix.lower() not in DICOM_SUFFIXES for path in known)
    return [str(path) for path in files if path in known or (bare and _is_cut(path))]


def _is_cut(path: Path) -> bool:
    """Return whether a file beside DICOM files without suffix was cut off within its preamble, or is a dead link."""
    suffix = path.suffix[1:]
    if suffix and not suffix.isdigit():
        return False
    if not path.exists():
        return True
    # the preamble is mostly zeros, which no text has
    head = path.read_bytes() if path.stat().st_size < _PREAMBLE else b"text"
    return not head or b"\0" in head


def _by_series(
    names: Sequence[str], *, tags: Sequence[int], pixels: bool, pictures_only: bool
) -> dict[str, list[tuple[str, Dataset]]]:
    """Read files and group them by series; once there are two series, only headers are read, for the message."""
    series: dict[str, list[tuple[str, Dataset]]] = {}
    for name in names:
        with named_errors(name):
            dataset = read_dicom(name, tags=tags, pixels=pixels and len(series) < 2)
            uid = str(dataset.get("SeriesInstanceUID") or "")
        if not (pictures_only and _is_other_object(dataset)):
            series.setdefault(uid, []).append((name, dataset))
    return series


def _is_other_object(dataset: Dataset) -> bool:
    """Return whether this is a report, a plan, a DICOMDIR or the like; a damaged image never counts as one."""
    kind = standard_name(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or UID(""))
    return "Rows" not in dataset and kind != "unknown" and "Image" not in kind


def _summary(series: dict[str, list[tuple[str, Dataset]]]) -> str:
    """Describe series for a message: number, then UID, first file and file count of each."""
    parts = []
    for uid, files in series.items():
        shown = uid if UID(uid).is_valid else "no valid UID"
        parts.append(f"{shown} ({Path(files[0][0]).name}, {len(files)} files)")
    return f"{len(series)}: {'; '.join(parts)}"
