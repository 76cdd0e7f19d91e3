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

"""Find the volumes in folders of DICOM files: a folder with one series, one series of several, or one file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from monai_weckd.data.dicom.patients import read_keys
from monai_weckd.data.dicom.references import series_reference
from monai_weckd.data.file_names import DICOM_SUFFIXES, NIFTI_SUFFIXES, PICTURE_SUFFIXES, is_picture
from monai_weckd.data.passed_over import PassedOver

__all__ = ["volumes"]


def volumes(files: Iterable[str], passed_over: PassedOver | None = None) -> list[str]:
    """Return the volumes that files form: DICOM files of one series in a folder are one, any other file is one.

    Args:
        files: paths of images, sorted.
        passed_over: counts DICOM objects without pixels, such as reports, beside volumes; default None.

    Returns:
        Paths: a folder if it holds one series, else a file or ``<folder>::<SeriesInstanceUID>``.

    """
    passed_over = PassedOver() if passed_over is None else passed_over
    found: dict[str, list[str]] = {}
    for name in files:
        found.setdefault(name if _is_single(name) else str(Path(name).parent), []).append(name)
    return [
        path
        for place, names in found.items()
        for path in ([place] if names == [place] else _volumes(place, names, passed_over))
    ]


def _volumes(folder: str, files: Sequence[str], passed_over: PassedOver) -> list[str]:
    """Return the volumes in one folder of DICOM files."""
    series: dict[str, list[str]] = {}
    whole, odd, without_pixels = [], [], 0
    for name in files:
        keys = read_keys(name)
        if keys is None:
            odd.append(name)
        elif keys.frames > 1:
            whole.append(name)
        elif keys.frames == 1:
            series.setdefault(keys.series, []).append(name)
        else:
            without_pixels += 1
    links = [name for name in odd if not os.path.exists(name)]
    if len(files) == 1 or (len(series) + len(whole) < 2 and len(links) < len(odd)) or not (series or whole or links):
        return [folder]
    if without_pixels:
        passed_over.files["DICOM without pixels"] += without_pixels
    if len(series) == 1 and not whole:
        return [folder, *links]
    parts = [names[0] if len(names) == 1 else series_reference(folder, uid) for uid, names in series.items()]
    return [*whole, *parts, *odd]


def _is_single(path: str) -> bool:
    """Return whether a file is an image of its own among volumes, not a slice of a DICOM series."""
    if path.lower().endswith((*PICTURE_SUFFIXES, *NIFTI_SUFFIXES)):
        return True
    if path.lower().endswith(DICOM_SUFFIXES) or not os.path.exists(path):
        return False
    with open(path, "rb") as stream:
        return is_picture(stream.read(132))
