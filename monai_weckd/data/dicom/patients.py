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

"""Group DICOM images by the patient in their headers, without writing number or name of a patient."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from monai_weckd.data.dicom.references import parse_series
from monai_weckd.utils.messages import printable

__all__ = ["DicomKeys", "header_file", "patient_groups", "pseudonyms", "read_keys"]

logger = logging.getLogger(__name__)

_LEVELS = ("patient", "study", "series")
# a label server lists its folder every few seconds: state and keys of each file by its path
_known: dict[str, tuple[tuple[int, int], DicomKeys | None]] = {}
_said: set[str] = set()


class DicomKeys(NamedTuple):
    """To whom and what a DICOM image belongs; empty texts where its header does not say.

    Args:
        patient: number of the patient and who issued it. It stays in memory: never write it.
        study: UID of the study.
        series: UID of the series.
        frames: number of frames; 0 for an object that is no image.

    """

    patient: tuple[str, str]
    study: str
    series: str
    frames: int = 1

    @property
    def unit(self) -> tuple[str, ...]:
        """The level ("patient", "study" or "series") at which the image is known, and its key; empty if it is not.

        It may hold the number of the patient: never write it.
        """
        for level, key in zip(_LEVELS, (*self.patient[:1], self.study, self.series), strict=True):
            if key:
                return (level, *self.patient) if level == "patient" else (level, key)
        return ()


def read_keys(path: str | os.PathLike[str]) -> DicomKeys | None:
    """Return the keys of a DICOM file, or of the first one in a folder; None for anything else.

    Only the start of the header is read, once for as long as the file does not change.

    Args:
        path: a file, the folder of a series, or a reference to one of several series in a folder.

    """
    return next((keys for _, keys in _known_files(path)), None)


def header_file(path: str | os.PathLike[str]) -> Path | None:
    """Return a DICOM image's file, or the first one of a folder; None for anything else.

    Args:
        path: as for :py:func:`read_keys`.

    """
    return next((file for file, keys in _known_files(path) if keys.frames), None)


def _known_files(path: str | os.PathLike[str]) -> Iterator[tuple[Path, DicomKeys]]:
    reference = parse_series(path)
    for file in _files(Path(reference[0] if reference else path)):
        status = os.stat(file)
        state = status.st_mtime_ns, status.st_size
        if _known.get(str(file), (None,))[0] != state:
            _known[str(file)] = state, _keys_of(file)
        keys = _known[str(file)][1]
        if keys is not None and (reference is None or keys.series == reference[1]):
            yield file, keys


def patient_groups(images: Mapping[str, str], *, where: str) -> dict[str, str]:
    """Return a group for each DICOM image: its patient, else its study, else its series; and log what was found.

    Args:
        images: path of each image by its id; others than DICOM are ignored.
        where: the folder, for the log.

    """
    keys = {name: found for name, path in images.items() if (found := read_keys(path)) is not None and found.unit}
    names = pseudonyms(keys)
    if names:
        _say(where, keys, names)
    return names


def pseudonyms(keys: Mapping[str, DicomKeys]) -> dict[str, str]:
    """Return a name for the patient (study, series) of each image that does not tell who that is.

    Nothing of the patient goes into the name: it is a digest of the first UIDs of the patient's studies and series.
    So it is the same wherever these images are, and nobody can find the patient's number by trying all numbers.

    Args:
        keys: keys of the images, by their ids.

    """
    first: dict[tuple[str, ...], tuple[str, ...]] = {}
    for found in keys.values():
        uids = (found.study, found.series)
        first[found.unit] = min(first.get(found.unit, uids), uids)
    owner: dict[tuple[str, ...], tuple[str, ...]] = {}
    for name, found in sorted(keys.items()):
        # careless software gives the same UIDs to several patients
        if owner.setdefault(first[found.unit], found.unit) != found.unit:
            first[found.unit] = (*first[found.unit], name)
            owner[first[found.unit]] = found.unit
    return {name: _name(found.unit[0], first[found.unit]) for name, found in keys.items()}


def _name(level: str, uids: tuple[str, ...]) -> str:
    return f"{level}-{hashlib.blake2b(chr(10).join(uids).encode(), digest_size=8).hexdigest()}"


def _files(path: Path) -> Iterator[Path]:
    """Yield the files that may tell the keys of an image."""
    if path.is_dir():
        yield from sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    elif path.is_file():
        yield path


def _keys_of(path: Path) -> DicomKeys | None:
    try:
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                return None
        # imported here, because pictures do not need pydicom
        from monai_weckd.data.dicom.elements import read_header

        *texts, frames, rows = read_header(
            path, "PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID", "NumberOfFrames", "Rows"
        )
        number, issuer, study, series = texts
        count = (int(frames or 1) or 1) if rows else 0
    except (ValueError, OSError):  # reading the image says what is wrong with it
        return None
    return DicomKeys((number, issuer), study, series, count)


def _say(where: str, keys: Mapping[str, DicomKeys], names: Mapping[str, str]) -> None:
    groups = {level: {names[key] for key in keys if keys[key].unit[0] == level} for level in _LEVELS}
    told = ", ".join(f"{len(found)} by {level}" for level, found in groups.items() if found)
    line = f"{printable(where)}: grouped {len(names)} DICOM images by their headers: {told}."
    if len(set(names.values())) == 1 < len(names):
        line += " If this is wrong, write a manifest.csv with a column group."
    if line not in _said:
        _said.add(line)
        logger.warning(line)
