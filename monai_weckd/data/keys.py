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

"""Name image, patient, study and series of a row as manifests do, so that tables can be joined."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from monai_weckd.data.datalist import known_group, known_groups
from monai_weckd.data.dicom.patients import image_id, patient_groups, pseudonyms, read_keys
from monai_weckd.data.manifest import manifest_columns
from monai_weckd.data.passed_over import PassedOver

__all__ = ["LEVELS", "ImageKeys", "KeyFinder"]

LEVELS = ("patient", "study", "series")


class ImageKeys(NamedTuple):
    """What an image is called in manifests and other tables.

    Args:
        file: its path within the folder.
        patient: its group: that of the folder's manifest or of fetched series, else the pseudonym of the patient, of
            the study or of the series, the first that the header has; empty without one.
        study: its study in the folder's manifest, else the pseudonym of that in the header, empty without one.
        series: its series likewise.

    """

    file: str
    patient: str = ""
    study: str = ""
    series: str = ""

    def of(self, level: str) -> tuple[str, ...]:
        """Return the names of patient, study and series down to a level; empty if that of the level is not known.

        Args:
            level: "patient", "study" or "series".

        Example::

            >>> ImageKeys("a.png", "p1", "s1").of("study"), ImageKeys("a.png", "p1").of("study")
            (('p1', 's1'), ())

        """
        names = tuple(getattr(self, name) for name in LEVELS[: LEVELS.index(level) + 1])
        return names if names[-1] else ()


class KeyFinder:
    """Find the keys of images.

    Args:
        source: the folder of the images, or one image.
        paths: the images; what the header of one leaves open, the others may tell. Default none.
        passed_over: columns of the manifest that are used here are removed from it, default None.

    Attributes:
        fault: why the groups of the folder's manifest cannot be used; empty if they can, or without a manifest.

    """

    def __init__(self, source: Path, paths: Iterable[str] = (), *, passed_over: PassedOver | None = None) -> None:
        self.root = source if source.is_dir() else source.parent
        self.fault = ""
        self._groups: dict[str, str] = {}
        self._columns: dict[str, dict[str, str]] = {}
        self._patients = patient_groups({path: path for path in paths}, where=str(source))
        try:
            self._groups = known_groups(self.root)
            self._columns = manifest_columns(self.root, LEVELS[1:], passed_over)
        except ValueError as error:  # images can be classified without it
            self.fault = str(error)

    def find(self, path: str) -> ImageKeys:
        """Return the keys of an image; from a DICOM file, only the start of the header is read.

        Args:
            path: the image.

        """
        file, header = image_id(path, self.root), read_keys(path)
        names = {} if header is None else pseudonyms(header)
        group = known_group(self._groups, file) or self._patients.get(path) or next(iter(names.values()), "")
        study, series = (self._columns.get(level, {}).get(file) or names.get(level, "") for level in LEVELS[1:])
        return ImageKeys(file, group, study, series)

    def relative(self, text: str) -> str:
        """Return a text in which paths are those within the folder.

        Args:
            text: such as a fault.

        """
        return text.replace(f"{self.root}{os.sep}", "").replace(f"{self.root}::", ".::")
