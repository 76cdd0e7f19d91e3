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

"""Tell masks and other pictures made from an image from images, by the names of files and folders."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from monai_weckd.data.file_names import DICOM_SUFFIXES, SUFFIXES
from monai_weckd.data.names import plain_key

__all__ = ["IMAGE_FOLDERS", "MASK_FOLDERS", "find_masks", "is_mask_folder"]

# folders of images beside those of masks, boxes or texts, as `plain_key` gives their names
IMAGE_FOLDERS = frozenset(
    ("image", "images", "img", "imgs", "imagestr", "imagests", "imagesval", "jpegimages", "pictures", "photos")
)
MASK_FOLDERS = frozenset(
    (
        *("mask", "masks", "label", "labels", "labelstr", "labelsts", "annotation", "annotations", "seg", "segs"),
        *("segmentation", "segmentations", "segmentationclass", "segmentationobject", "groundtruth", "gt", "boxes"),
    )
)
# these are never a class, unlike "label", or "seg" for segmented neutrophils
_CLEAR_MASK_FOLDER = re.compile(r"(.*(?:mask|segmentation|annotation|groundtruth)s?|segmentation(?:class|object))")
_MASK = r"masks?|segs?|segmentations?|labels?|gt|ground[ _-]?truth|annotations?"
_MADE = rf"(?:{_MASK}|overlays?|heat[ _-]?maps?|contours?|bbox(?:es)?|thumbnails?)"
_SUFFIXED = re.compile(rf"(.+?)[ _.-]*{_MADE}(?:[ _-]?\d+)?", re.IGNORECASE)  # 1_mask, 1-seg-2, 1mask
_LAST_WORD = re.compile(rf"(.+)[ _.-]{_MADE}", re.IGNORECASE)  # p1_seg beside p1_t1
_PREFIXED = re.compile(rf"{_MADE}[ _.-]+(.+)", re.IGNORECASE)  # mask_1
_ALONE = re.compile(_MASK, re.IGNORECASE)  # mask


def is_mask_folder(name: str) -> bool:
    """Return whether a folder holds masks by its name, and can be no class.

    Args:
        name: its name.

    Example::

        >>> is_mask_folder("masks"), is_mask_folder("benign_mask"), is_mask_folder("seg")
        (True, True, False)

    """
    return bool(_CLEAR_MASK_FOLDER.fullmatch(plain_key(name)))


def find_masks(files: Iterable[str]) -> dict[str, str]:
    """Return the files that are masks, overlays, or thumbnails of others by their names, each with one of these others.

    They are ``1_mask.png`` or ``mask_1.png`` beside ``1.png``, ``p1_seg.nii.gz`` beside ``p1_t1.nii.gz``, ``mask.png``
    beside ``image.png``, and the files of ``masks/`` beside ``images/`` or in the folder of the images.

    Args:
        files: paths, relative to one folder.

    """
    by_folder: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for file in files:
        path = PurePath(file)
        by_folder[str(path.parent)].append((_stem(path.name), file))
    found = _in_mask_folders(by_folder)
    for names in by_folder.values():
        found |= _beside(names)
    return found


def _in_mask_folders(by_folder: dict[str, list[tuple[str, str]]]) -> dict[str, str]:
    """Return the masks in folders of masks, beside a folder of images or below the images."""
    parts = {PurePath(folder).parts: [file for _, file in names] for folder, names in by_folder.items()}
    beside: dict[tuple[str, ...], str] = {}
    for names, files in parts.items():
        for depth, name in enumerate(names):
            if plain_key(name) in IMAGE_FOLDERS:
                beside.setdefault(names[:depth], files[0])
    found = {}
    for names, files in parts.items():
        for depth, name in enumerate(names):
            image = beside.get(names[:depth]) if plain_key(name) in MASK_FOLDERS or is_mask_folder(name) else None
            if image is None and is_mask_folder(name):
                image = parts.get(names[:depth], [None])[0]
            if image is not None:
                found.update(dict.fromkeys(files, image))
    return found


def _beside(names: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the masks of one folder, given stems and paths."""
    if not any(re.search(_MADE, stem, re.IGNORECASE) for stem, _ in names):
        return {}
    images = {stem.casefold(): file for stem, file in names}
    starts = {}
    for stem, file in names:
        if not _LAST_WORD.fullmatch(stem):
            starts.update({stem[: cut.start()].casefold(): file for cut in re.finditer(r"[ _.-]", stem)})
    others = [file for stem, file in names if not _ALONE.fullmatch(stem)]
    found = {}
    for stem, file in names:
        image: str | None = None
        if _ALONE.fullmatch(stem) and not file.lower().endswith(DICOM_SUFFIXES):  # the header tells what DICOM is
            image = next(iter(others), None)
        elif match := _SUFFIXED.fullmatch(stem):
            image = images.get(match[1].casefold())
            last = _LAST_WORD.fullmatch(stem)
            image = image or (last and starts.get(last[1].casefold()))
        elif match := _PREFIXED.fullmatch(stem):
            image = images.get(match[1].casefold())
        if image:
            found[file] = image
    return found


def _stem(name: str) -> str:
    return name[: -len(suffix)] if (suffix := next(filter(name.lower().endswith, SUFFIXES[::-1]), "")) else name
