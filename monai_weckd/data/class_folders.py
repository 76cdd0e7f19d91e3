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

"""List a folder with one folder for each class, or with such folders below train, val and test."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import PurePath

from monai_weckd.data.file_names import SUFFIXES, is_litter, kind_of
from monai_weckd.data.image_files import image_files
from monai_weckd.data.manifest import Row
from monai_weckd.data.names import plain_key
from monai_weckd.data.passed_over import PassedOver
from monai_weckd.data.series_items import volumes
from monai_weckd.data.split_file import split_name

__all__ = ["inner_folders", "read_folders"]

# folders of images beside those of masks, boxes or texts, as `plain_key` gives their names
_IMAGES = frozenset(
    ("image", "images", "img", "imgs", "imagestr", "imagests", "imagesval", "jpegimages", "pictures", "photos")
)
_MASKS = frozenset(
    (
        *("mask", "masks", "label", "labels", "labelstr", "labelsts", "annotation", "annotations", "seg", "segs"),
        *("segmentation", "segmentations", "segmentationclass", "segmentationobject", "groundtruth", "gt", "boxes"),
    )
)
# a mask beside its image, by the end of its name
_MASK_NAME = re.compile(
    r"(.+?)[ _.-]*(?:masks?|seg|segmentation|labels?|gt|ground[ _-]?truth|annotations?)(?:[ _-]?\d+)?", re.IGNORECASE
)
# what holds the same classes several times
_PARTS = re.compile(
    r"(?:k?fold|cv|split|part|batch|site|cent(?:er|re)|hospital|institution|scanner|dataset|set|reader|rater)[a-z]?\d*"
)


def read_folders(root: str, passed_over: PassedOver, *, by_series: bool = False) -> list[Row]:
    """Return a row for each image below class folders, with its split if the folders say so.

    Splits are ``train/<class>``, or ``<class>/train``, in any of the spellings that :py:func:`split_name` knows.

    Args:
        root: the folder.
        passed_over: counts the files that are not images.
        by_series: whether a DICOM series is one image, as in 3-D, and not each of its files; default False.

    Raises:
        ValueError: When a class has no image, the folders mix splits and classes, or they separate images and masks.

    """
    for entry in os.scandir(root):
        if not entry.is_dir() and not is_litter(entry.name):
            passed_over.files[kind_of(entry.name)] += 1
    folders = _subfolders(root)
    _refuse_masks(folders, root)
    splits = {name: split_name(name) for name in folders}
    _refuse_parts(root, folders)
    if not any(splits.values()) or not any(_has_classes(os.path.join(root, name)) for name in folders if splits[name]):
        if folders and all(splits.values()):
            raise _flat_splits(root, folders)
        return _with_inner_splits(list(_rows(root, folders, passed_over, by_series)), root)
    strange = [name for name in folders if not splits[name]]
    if strange:
        raise ValueError(
            f"dataset_dir: expected either splits or classes in {root!r}, got {strange[0]!a} beside "
            f"{next(name for name in folders if splits[name])!a}. Name splits train, val and test, move the rest "
            "elsewhere, or write manifest.csv."
        )
    return [
        row for name, split in splits.items() for row in _split_rows(root, name, split or "", passed_over, by_series)
    ]


def inner_folders(root: str) -> str:
    """Return the folder that holds several folders of images, where a folder holds one alone; empty otherwise.

    Args:
        root: the folder, in which there are images.

    """
    here = root
    while len(names := _subfolders(here)) == 1:
        here = os.path.join(here, names[0])
    return here if here != root and len(names) > 1 and _has_classes(here) else ""


def _split_rows(root: str, name: str, split: str, passed_over: PassedOver, by_series: bool) -> Iterator[Row]:
    here, classes = os.path.join(root, name), _subfolders(os.path.join(root, name))
    if len(classes) == 1 and split_name(classes[0]) == split and _has_classes(os.path.join(here, classes[0])):
        yield from _split_rows(root, f"{name}/{classes[0]}", split, passed_over, by_series)
        return
    if not _has_classes(here):
        raise _flat_splits(root, [name])
    _refuse_masks(classes, here)
    loose = [entry.name for entry in os.scandir(here) if entry.is_file() and not is_litter(entry.name)]
    if any(file.lower().endswith(SUFFIXES) for file in loose):
        raise _flat_splits(root, [name])
    passed_over.files.update(map(kind_of, loose))
    for row in _rows(root, [f"{name}/{label}" for label in classes], passed_over, by_series):
        yield row._replace(split=split)


def _flat_splits(root: str, folders: list[str]) -> ValueError:
    return ValueError(
        f"dataset_dir: expected class folders in {' '.join(map(ascii, folders))} of {root!r}, got images of no class. "
        "Move them into a folder for each class, or write manifest.csv."
    )


def _has_classes(folder: str) -> bool:
    """Return whether there are images in subfolders, as there are in train, val and test."""
    return any(next(image_files(os.path.join(folder, name)), None) for name in _subfolders(folder))


def _subfolders(folder: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_litter(entry.name))


def _rows(root: str, folders: Iterable[str], passed_over: PassedOver, by_series: bool) -> Iterator[Row]:
    for folder in folders:
        path, here = os.path.join(root, folder), PassedOver()
        found = image_files(path, here)
        files = [os.path.relpath(file, root) for file in (volumes(found, here) if by_series else found)]
        if not files:
            told = f" ({here.text()})" if here.files else ""
            raise ValueError(
                f"dataset_dir: expected images in every class folder, got none in {path!r}{told}. "
                f"Add images ({' '.join(SUFFIXES)}) or remove the folder."
            )
        passed_over.files.update(here.files)
        _refuse_inner_masks(root, files)
        _refuse_masks_by_name(files)
        for file in files:
            yield Row(file, file, PurePath(folder).name)


def _with_inner_splits(rows: list[Row], root: str) -> list[Row]:
    """Return rows with the splits of folders ``<class>/train``, if every image has one."""
    inner = [PurePath(row.file).parts[1:-1] for row in rows]
    splits = [next(filter(None, map(split_name, parts)), None) for parts in inner]
    if not any(splits):
        return rows
    if not all(splits) and not any(parts and split_name(parts[0]) for parts in inner):
        return rows  # a few folders deep below the classes have such a name by chance
    if not all(splits):
        odd = rows[splits.index(None)].file
        raise ValueError(
            f"dataset_dir: expected all images of {root!r} in train, val and test below their class, got {odd!r} "
            "outside. Move it, or rename the folders of splits."
        )
    return [row._replace(split=split or "") for row, split in zip(rows, splits, strict=True)]


def _refuse_masks(folders: list[str], where: str) -> None:
    """Refuse folders that hold images beside their masks or texts, which would become classes."""
    images = [name for name in folders if plain_key(name) in _IMAGES]
    others = [name for name in folders if name not in images]
    if images:
        masks = [name for name in others if plain_key(name) in _MASKS]
        beside = f" beside {(masks or others)[0]!a}" if others else ""
        raise ValueError(
            f"dataset_dir: expected a folder for each class in {where!r}, got {images[0]!a}{beside}. "
            "Sort the images into class folders and move masks elsewhere, or write manifest.csv."
        )


def _refuse_inner_masks(root: str, files: Iterable[str]) -> None:
    inner: dict[PurePath, set[str]] = defaultdict(set)
    for file in files:
        for parent in PurePath(file).parents:
            inner[parent.parent].add(parent.name)
    for folder, names in inner.items():
        if any(plain_key(name) in _MASKS for name in names):
            _refuse_masks(sorted(names), os.path.join(root, folder))


def _refuse_masks_by_name(files: Iterable[str]) -> None:
    """Refuse ``1_mask.png`` beside ``1.png``: it would be one more image of the class."""
    stems = {str(path.with_name(_stem(path.name))): file for file in files for path in [PurePath(file)]}
    for stem, file in stems.items():
        found = _MASK_NAME.fullmatch(PurePath(stem).name)
        image = found and stems.get(str(PurePath(stem).with_name(found[1])))
        if image:
            raise ValueError(
                f"dataset_dir: expected images in class folders, got {file!a} beside {image!a}, which looks like its "
                "mask. Move masks elsewhere, or write manifest.csv."
            )


def _stem(name: str) -> str:
    return name[: -len(suffix)] if (suffix := next(filter(name.lower().endswith, SUFFIXES[::-1]), "")) else name


def _refuse_parts(root: str, folders: list[str]) -> None:
    """Refuse folds, sites and the like that each hold the classes: they would be the classes."""
    if len(folders) < 2 or not all(_PARTS.fullmatch(plain_key(name)) for name in folders):
        return
    inner = set.intersection(*(set(_subfolders(os.path.join(root, name))) for name in folders))
    if len(inner) > 1:
        raise ValueError(
            f"dataset_dir: expected a folder for each class in {root!r}, got {folders[0]!a} and {folders[1]!a}, which "
            f"both have {' and '.join(map(ascii, sorted(inner)[:2]))}. Put the class first, or write manifest.csv."
        )
