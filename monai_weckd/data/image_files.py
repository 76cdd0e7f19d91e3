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

from monai_weckd.data.series_items import volumes

__all__ = ["image_files", "list_images"]


SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".nii", ".nii.gz", ".dcm")


def image_files(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the paths of all images below a folder, sorted; skip hidden files, DICOMDIR and other files.

    Args:
        folder: the folder to search, with its subfolders.

    """
    for here, subfolders, files in os.walk(folder):
        # sorted in place, because os.walk descends in this order; otherwise it takes the file system's
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(here, name)
            if not name.startswith(".") and name != "DICOMDIR" and _is_image(path):
                yield path


def _is_image(path: str) -> bool:
    if path.lower().endswith(SUFFIXES):
        return True
    suffix = os.path.splitext(path)[1]
    # DICOM files are often named after their UID, whose last number looks like a suffix
    if suffix and not suffix[1:].isdigit():
        return False
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:  # a link that leads nowhere stops no listing; reading the image says what is wrong
        return True


def list_images(path: Path, *, spatial_dims: int) -> list[str]:
    """Return the images at a path, sorted; for volumes, see ``data.series_items.volumes``.

    Args:
        path: an image, or a folder that is searched with its subfolders.
        spatial_dims: 2 for pictures, 3 for volumes.

    Raises:
        FileNotFoundError: When there is nothing at the path.
        ValueError: When there is no image in the folder.

    """
    if not path.exists():
        raise FileNotFoundError(f"input: expected a file or folder, got nothing at {path}. Correct the path.")
    if not path.is_dir():
        return [str(path)]
    found = image_files(path)
    images = volumes(found) if spatial_dims == 3 else list(found)
    if not images:
        raise ValueError(f"input: expected PNG, JPEG, TIFF, BMP, NIfTI or DICOM files below {path}, got none.")
    return images
