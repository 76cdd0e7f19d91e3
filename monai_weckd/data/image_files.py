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

"""Find image files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from monai_weckd.data.file_names import SUFFIXES, is_litter, is_picture, kind_of
from monai_weckd.data.masks import find_masks
from monai_weckd.data.passed_over import PassedOver
from monai_weckd.data.series_items import volumes

__all__ = ["image_files", "list_images"]


def image_files(folder: str | os.PathLike[str], passed_over: PassedOver | None = None) -> Iterator[str]:
    """Yield the paths of all images below a folder, sorted; skip hidden files, litter, DICOMDIR and other files.

    An image has a known suffix, or the content of a DICOM file; without a suffix, the content of a picture is enough.

    Args:
        folder: the folder to search, with its subfolders.
        passed_over: counts the other files, default None. Hidden files, litter and the manifest are not counted.

    """
    files_passed = (PassedOver() if passed_over is None else passed_over).files
    for here, subfolders, files in os.walk(folder):
        # sorted in place, because os.walk descends in this order; otherwise it takes the file system's
        subfolders[:] = sorted(name for name in subfolders if not is_litter(name))
        for name in subfolders:
            if os.path.islink(os.path.join(here, name)):  # os.walk does not follow it
                files_passed["linked folders"] += 1
        for name in sorted(name for name in files if not is_litter(name)):
            path = os.path.join(here, name)
            if _is_image(path):
                yield path
            elif here != os.fspath(folder) or name.casefold() != "manifest.csv":
                files_passed[kind_of(name)] += 1


def _is_image(path: str) -> bool:
    if path.lower().endswith(SUFFIXES):
        return True
    if not os.path.isfile(path):
        return os.path.islink(path)  # a dead link does not stop the listing; reading the image says what is wrong
    try:
        with open(path, "rb") as stream:
            head = stream.read(132)
    except OSError:
        return True
    # DICOM files have any suffix; pictures with a strange one are previews, backups, or formats based on TIFF
    return head[128:] == b"DICM" or (kind_of(path) == "no suffix" and is_picture(head))


def list_images(
    path: Path, *, spatial_dims: int, passed_over: PassedOver | None = None, name: str = "input"
) -> list[str]:
    """Return the images at a path, sorted; for volumes, see ``data.series_items.volumes``.

    Masks beside images, as ``data.masks.find_masks`` finds them, are passed over.

    Args:
        path: an image, or a folder that is searched with its subfolders.
        spatial_dims: 2 for pictures, 3 for volumes.
        passed_over: counts the other files and the masks, default None.
        name: what the path is called in errors, default "input".

    Raises:
        FileNotFoundError: When there is nothing at the path.
        ValueError: When there is no image in the folder.

    """
    if not path.exists():
        raise FileNotFoundError(f"{name}: expected a file or folder, got nothing at {path}. Correct the path.")
    if not path.is_dir():
        return [str(path)]
    passed_over = PassedOver() if passed_over is None else passed_over
    found = list(image_files(path, passed_over))
    masks = find_masks(os.path.relpath(file, path) for file in found)
    if masks:
        passed_over.files["masks"] += len(masks)
        found = [file for file in found if os.path.relpath(file, path) not in masks]
    images = volumes(found, passed_over) if spatial_dims == 3 else found
    if not images:
        told = f" ({passed_over.text()})" if passed_over.files else ""
        raise ValueError(f"{name}: expected PNG, JPEG, TIFF, BMP, NIfTI or DICOM files below {path}, got none{told}.")
    return images
