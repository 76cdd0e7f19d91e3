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
from pathlib import Path
from typing import Any

from monai_weckd.data.datalist import known_group, known_groups
from monai_weckd.data.dicom.patients import image_id, patient_groups
from monai_weckd.data.image_files import list_images
from monai_weckd.data.passed_over import PassedOver

__all__ = ["find_items"]


def find_items(
    folder: str | os.PathLike[str], *, spatial_dims: int, passed_over: PassedOver | None = None
) -> list[dict[str, Any]]:
    """List the images of a folder for labeling, without decoding them.

    Args:
        folder: the folder, searched with its subfolders. Groups are read from its ``manifest.csv`` if it has one, or
            from the ``index.csv`` of ``python -m monai_weckd fetch``, else from the headers of DICOM images, see
            :py:func:`monai_weckd.data.load_datalist`. Labels in the manifest are ignored.
        spatial_dims: 2 for pictures, 3 for volumes. In 3D, all DICOM files in a folder form one volume.
        passed_over: gets what was not used, default None.

    Returns:
        Dictionaries with ``image`` (a path), ``id`` (the path within the folder) and ``group``.

    Raises:
        ValueError: When there is no image, a name is not in UTF-8, DICOM files without a UID of their series lie in the
            folder itself, or the manifest does not follow :py:func:`monai_weckd.data.load_datalist`.

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
    return [{**item, "group": item["group"] or patients.get(item["id"], item["id"])} for item in items]
