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

"""Names and suffixes of the files that the loader reads and every listing includes."""

from __future__ import annotations

import os

__all__ = ["DICOM_SUFFIXES", "NIFTI_SUFFIXES", "PICTURE_HEADS", "SUFFIXES", "is_litter", "is_picture", "kind_of"]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".tif", ".tiff", ".bmp", ".dib")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
SUFFIXES = (*PICTURE_SUFFIXES, *NIFTI_SUFFIXES, *DICOM_SUFFIXES)

# first bytes of PNG, JPEG, TIFF, BigTIFF and BMP
PICTURE_HEADS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM")

# what Windows, macOS and network storage leave behind, in lower case; DICOMDIR is an index
_LITTER = frozenset(
    (
        *("@eadir", "@recycle", "@tmp", "@synoresource", "#recycle", "#snapshot", "~snapshot", "$recycle.bin"),
        *("recycler", "recycled", "system volume information", "found.000", "__macosx", "network trash folder"),
        *("temporary items", "lost+found", "__pycache__", "thumbs.db", "thumbs.db:encryptable", "ehthumbs.db"),
        *("ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r", "dicomdir"),
    )
)


def is_litter(name: str) -> bool:
    """Return whether a file or folder is hidden, or one that systems leave behind, such as ``Thumbs.db``.

    Args:
        name: its name, without its folder.

    """
    return name.startswith((".", "~$")) or name.lower() in _LITTER


def kind_of(name: str) -> str:
    """Return the suffix of a file, for counting; the number at the end of a UID is not a suffix.

    Args:
        name: its name.

    """
    suffix = os.path.splitext(name)[1]
    return suffix if suffix[1:] and not suffix[1:].isdigit() else "no suffix"


def is_picture(head: bytes) -> bool:
    """Return whether a file is a picture by its first bytes.

    Args:
        head: at least ten bytes.

    """
    # two letters may also begin a text; the four reserved bytes of a bitmap do not
    return head.startswith(PICTURE_HEADS) and (not head.startswith(b"BM") or head[6:10] == bytes(4))
