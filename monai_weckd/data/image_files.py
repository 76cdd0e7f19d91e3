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

from monai_weckd.data.passed_over import PassedOver

__all__ = ["DICOM_SUFFIXES", "NIFTI_SUFFIXES", "PICTURE_HEADS", "image_files", "is_litter", "list_images"]


# what the loader reads, and what every listing takes: one list
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".tif", ".tiff", ".bmp", ".dib")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
SUFFIXES = (*PICTURE_SUFFIXES, *NIFTI_SUFFIXES, *DICOM_SUFFIXES)

# first bytes of PNG, JPEG, TIFF, BigTIFF and BMP
PICTURE_HEADS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM")

# what Windows, macOS and network storage leave behind, in lower case; DICOMDIR is an index
_LITTER = frozenset(
    (
        *("@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "lost+found"),
        *("system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "dicomdir"),
    )
)


def image_files(folder: str | os.PathLike[str], passed_over: PassedOver | None = None) -> Iterator[str]:
    """Yield the paths of all images below a folder, sorted; skip hidden files, litter, DICOMDIR and other files.

    An image has a known suffix, or the content of a DICOM file; without a suffix, the content of a picture will do.

    Args:
        folder: the folder to search, with its subfolders.
        passed_over: counts the other files, default None: nobody asks. Hidden files and litter are not counted.

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
            else:
                files_passed[kind_of(name)] += 1


def is_litter(name: str) -> bool:
    """Return whether a file or folder is hidden, or one that systems leave behind, such as ``Thumbs.db``.

    Args:
        name: its name, without its folder.

    """
    return name.startswith(".") or name.lower() in _LITTER


def kind_of(name: str) -> str:
    """Return the suffix of a file, for counting; the number at the end of a UID is none.

    Args:
        name: its name.

    """
    suffix = os.path.splitext(name)[1]
    return suffix if suffix[1:] and not suffix[1:].isdigit() else "no suffix"


def _is_image(path: str) -> bool:
    if path.lower().endswith(SUFFIXES):
        return True
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        return False
    with open(path, "rb") as stream:
        head = stream.read(132)
    # DICOM files have any suffix; pictures with a strange one are previews, backups, or formats based on TIFF
    return head[128:] == b"DICM" or (kind_of(path) == "no suffix" and _is_picture(head))


def _is_picture(head: bytes) -> bool:
    # two letters may also begin a text; the four reserved bytes of a bitmap do not
    return head.startswith(PICTURE_HEADS) and (not head.startswith(b"BM") or head[6:10] == bytes(4))


def list_images(path: Path, *, spatial_dims: int, passed_over: PassedOver | None = None) -> list[str]:
    """Return the images at a path, sorted; for volumes, all DICOM files in one folder form one image.

    Args:
        path: an image, or a folder that is searched with its subfolders.
        spatial_dims: 2 for pictures, 3 for volumes.
        passed_over: counts the other files, default None: nobody asks.

    Raises:
        FileNotFoundError: When there is nothing at the path.
        ValueError: When there is no image in the folder.

    """
    if not path.exists():
        raise FileNotFoundError(f"input: expected a file or folder, got nothing at {path}. Correct the path.")
    if not path.is_dir():
        return [str(path)]
    passed_over = PassedOver() if passed_over is None else passed_over
    found = image_files(path, passed_over)
    if spatial_dims == 3:
        found = (name if _is_single(name) else str(Path(name).parent) for name in found)
    images = list(dict.fromkeys(found))
    if not images:
        told = f" ({passed_over.text()})" if passed_over.files else ""
        raise ValueError(f"input: expected PNG, JPEG, TIFF, BMP, NIfTI or DICOM files below {path}, got none{told}.")
    return images


def _is_single(path: str) -> bool:
    """Return whether a file is an image of its own among volumes, not a slice of a DICOM series."""
    if path.lower().endswith((*PICTURE_SUFFIXES, *NIFTI_SUFFIXES)):
        return True
    if path.lower().endswith(DICOM_SUFFIXES):
        return False
    with open(path, "rb") as stream:
        return stream.read(132)[128:] != b"DICM"
