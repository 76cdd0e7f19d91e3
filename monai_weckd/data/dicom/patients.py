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
import hmac
import logging
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from monai_weckd.data.dicom.pseudonym_key import pseudonym_key
from monai_weckd.data.dicom.references import parse_series, series_reference
from monai_weckd.data.names import fold_text
from monai_weckd.utils.messages import printable

__all__ = ["DicomKeys", "completed_keys", "header_file", "image_id", "patient_groups", "pseudonyms", "read_keys"]

logger = logging.getLogger(__name__)

_LEVELS = ("patient", "study", "series")
_BYTES = 8  # of a digest: two of a million patients share a name once in thirty million data sets
# state and keys of each file by its path, because a label server lists its folder every few seconds
_known: dict[str, tuple[tuple[int, int], DicomKeys | None]] = {}
_said: set[str] = set()


class DicomKeys(NamedTuple):
    """The patient, study and series of a DICOM image; empty texts where its header does not name them.

    Args:
        patient: number of the patient and its issuer. It stays in memory: never write it.
        study: UID of the study.
        series: UID of the series.
        frames: number of frames; 0 for an object that is not an image.

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
    """Return the keys of a DICOM file, or of the first in a folder, images before others; None for anything else.

    Only the start of the header is read, once for as long as the file does not change.

    Args:
        path: a file, the folder of a series, or a reference to one of several series in a folder.

    """
    other = None
    for _, keys in _known_files(path):
        if keys.frames:
            return keys
        other = other or keys
    return other


def header_file(path: str | os.PathLike[str]) -> Path | None:
    """Return a DICOM image's file, or the first one of a folder; None for anything else.

    Args:
        path: as for :py:func:`read_keys`.

    """
    return next((file for file, keys in _known_files(path) if keys.frames), None)


def image_id(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> str:
    """Return the path of an image within a folder, as manifests name it; ``.::<UID>`` is a series in the folder itself.

    Args:
        path: a file, the folder of a series, or a reference to one of several series in a folder.
        root: the folder.

    """
    found = parse_series(path)
    key = Path(found[0] if found else path).relative_to(root).as_posix()
    uid = found[1] if found else ""
    if key == "." and not uid and (keys := read_keys(path)) is not None:
        uid = keys.series
    return series_reference(key, uid) if uid else key


def _known_files(path: str | os.PathLike[str]) -> Iterator[tuple[Path, DicomKeys]]:
    """Yield the DICOM files of an image, and the keys of each."""
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

    What an image's own header does not say, those of the other images may: an image without a number, in the study or
    series of one patient, is of that patient.

    Args:
        images: path of each image by its id; others than DICOM are ignored.
        where: the folder, for the log.

    """
    known = {name: keys for name, path in images.items() if (keys := read_keys(path)) is not None}
    found = {name: pseudonyms(keys) for name, keys in completed_keys(known).items()}
    names = {name: levels for name, levels in found.items() if levels}
    if names:
        _say(where, names.values())
    return {name: next(iter(levels.values())) for name, levels in names.items()}


def completed_keys(found: Mapping[str, DicomKeys]) -> dict[str, DicomKeys]:
    """Return keys with the issuer, patient and study that are missing, where the other keys leave one possibility.

    Args:
        found: keys of images by any name.

    """
    done = dict(found)
    for part, of, value in (
        ("patient", lambda keys: keys.patient[0], lambda keys: keys.patient if keys.patient[1] else None),
        ("patient", lambda keys: keys.study, lambda keys: keys.patient if keys.patient[0] else None),
        ("study", lambda keys: keys.series, lambda keys: keys.study or None),
        ("patient", lambda keys: keys.series, lambda keys: keys.patient if keys.patient[0] else None),
    ):
        values: dict[str, set[Any]] = defaultdict(set)
        for keys in done.values():
            if of(keys) and value(keys):
                values[of(keys)].add(value(keys))
        for name, keys in done.items():
            if value(keys) is None and len(only := values.get(of(keys), set())) == 1:
                done[name] = keys._replace(**{part: next(iter(only))})
    return done


def pseudonyms(keys: DicomKeys) -> dict[str, str]:
    """Return pseudonyms of patient, study and series by level, without those missing in the header.

    A patient's name is a keyed digest of the number and its issuer, see
    :py:func:`monai_weckd.data.dicom.pseudonym_key.pseudonym_key`: the same for all images and in all commands that have
    the same key, and without the key, the number cannot be found by trying all numbers. The others are digests of UIDs.

    Args:
        keys: keys of an image.

    """
    number, issuer = keys.patient
    patient = hmac.digest(pseudonym_key(), f"{issuer}\0{number}".encode(), "sha256") if number else b""
    study, series = (hashlib.sha256(uid.encode()).digest() if uid else b"" for uid in (keys.study, keys.series))
    found = zip(_LEVELS, (patient, study, series), strict=True)
    return {level: f"{level}-{digest[:_BYTES].hex()}" for level, digest in found if digest}


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
        # as of a group in a manifest: case, Unicode form and invisible characters make no other patient
        number, issuer = fold_text(number), fold_text(issuer)
        count = (int(frames or 1) or 1) if rows else 0
    except (ValueError, OSError):  # reading the image says what is wrong with it
        return None
    return DicomKeys((number, issuer), study, series, count)


def _say(where: str, found: Collection[Mapping[str, str]]) -> None:
    groups: dict[str, set[str]] = {level: set() for level in _LEVELS}
    for levels in found:
        level, name = next(iter(levels.items()))
        groups[level].add(name)
    told = ", ".join(f"{len(names)} by {level}" for level, names in groups.items() if names)
    line = f"{printable(where)}: grouped {len(found)} DICOM images by their headers: {told}."
    if sum(map(len, groups.values())) == 1 < len(found):
        line += " If this is wrong, write a manifest.csv with a column group."
    if line not in _said:
        _said.add(line)
        logger.warning(line)
