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

"""List the images of a folder for a labeling session."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_weckd.data.datalist import Datalist, known_group, known_groups
from monai_weckd.data.dicom.patients import image_id, patient_groups
from monai_weckd.data.image_files import list_images
from monai_weckd.data.item_level import group_images
from monai_weckd.data.passed_over import PassedOver
from monai_weckd.data.verify import has_fault
from monai_weckd.utils.enums import UNLABELED

__all__ = ["find_items", "first_readable", "middle_readable"]


_LONGEST = 240  # bytes of a name that becomes that of a file


def find_items(
    folder: str | os.PathLike[str],
    *,
    spatial_dims: int,
    item_level: str = "image",
    passed_over: PassedOver | None = None,
) -> list[dict[str, Any]]:
    """List the images of a folder for labeling, or its items of several images, without decoding them.

    Args:
        folder: the folder, searched with its subfolders. Groups are read from its ``manifest.csv`` if it has one, or
            from the ``index.csv`` of ``python -m monai_weckd fetch``, else from the headers of DICOM images, see
            :py:func:`monai_weckd.data.load_datalist`. Labels in the manifest are ignored.
        spatial_dims: 2 for pictures, 3 for volumes. In 3D, all DICOM files in a folder form one volume.
        item_level: see :py:func:`monai_weckd.data.group_images`; default "image": each image is an item.
        passed_over: gets what was not used, default None.

    Returns:
        Dictionaries with ``image`` (a path), ``id`` (the path within the folder) and ``group``; or those of
        :py:func:`monai_weckd.data.group_images`, without ``label``.

    Raises:
        ValueError: When there is no image, or none of a known series, study or patient, a name is not in UTF-8 or
            cannot be part of an address, DICOM files without a UID of their series lie in the folder itself, or the
            manifest does not follow :py:func:`monai_weckd.data.load_datalist`.

    """
    root = Path(folder).absolute()
    groups = known_groups(root, passed_over)
    items: list[dict[str, Any]] = []
    for path in list_images(root, spatial_dims=spatial_dims, passed_over=passed_over, name="images"):
        key = image_id(path, root)
        if key == ".":  # cannot be part of a URL
            raise ValueError(
                f"images: expected each DICOM series without a UID in a folder below {root}, got files of one in it. "
                "Move them into a folder."
            )
        if any("\ud800" <= letter <= "\udfff" for letter in key):  # JSON cannot hold it
            raise ValueError(f"images: expected file names in UTF-8, got {key!r}. Rename it.")
        items.append({"image": path, "id": key, "group": known_group(groups, key)})
    patients = patient_groups({item["id"]: item["image"] for item in items if not item["group"]}, where=str(root))
    items = [{**item, "group": item["group"] or patients.get(item["id"], item["id"])} for item in items]
    return items if item_level == "image" else _grouped(items, item_level, root, passed_over)


def first_readable(paths: Sequence[str]) -> int:
    """Return the place of the first of an item's images that is not known to be unreadable, 0 where all are.

    Args:
        paths: the images.

    """
    return _readable(paths)[0]


def middle_readable(paths: Sequence[str]) -> int:
    """Return the place of the middle one of an item's images that are not known to be unreadable, or of all.

    Args:
        paths: the images.

    """
    places = _readable(paths)
    return places[len(places) // 2]


def _readable(paths: Sequence[str]) -> Sequence[int]:
    return [place for place, path in enumerate(paths) if not has_fault(path)] or range(len(paths))


def _grouped(
    images: list[dict[str, Any]], level: str, root: Path, passed_over: PassedOver | None
) -> list[dict[str, Any]]:
    """Return the series, studies or patients of images."""
    listed = Datalist([{**image, "label": UNLABELED} for image in images], (), passed_over=passed_over or PassedOver())
    items = group_images(listed, level, root).items
    known = {image["id"] for image in images}
    for name in (item["id"] for item in items if item["id"] not in known):
        parts = name.split("/")
        # an address and a folder would take these as another name, or as that of another address
        if {"", ".", ".."} & set(parts) or parts[-1] == "png" or len(name.encode()) > _LONGEST:
            raise ValueError(
                f"item_level: expected names of at most {_LONGEST} bytes, without empty parts, '.' and '..', and not "
                f"ending in '/png', for each {level}, got {name!r}. Rename it in manifest.csv."
            )
    return [{key: value for key, value in item.items() if key != "label"} for item in items]
