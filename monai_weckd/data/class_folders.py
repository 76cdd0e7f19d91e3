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

__all__ = ["read_folders"]

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


def _split_rows(root: str, name: str, split: str, passed_over: PassedOver, by_series: bool) -> Iterator[Row]:
    here = os.path.join(root, name)
    if not _has_classes(here):
        raise _flat_splits(root, [name])
    classes = _subfolders(here)
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
        for file in files:
            yield Row(file, file, PurePath(folder).name)


def _with_inner_splits(rows: list[Row], root: str) -> list[Row]:
    """Return rows with the splits of folders ``<class>/train``, if every image has one."""
    splits = [split_name(parts[1]) if len(parts := PurePath(row.file).parts) > 2 else None for row in rows]
    if not any(splits):
        return rows
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
