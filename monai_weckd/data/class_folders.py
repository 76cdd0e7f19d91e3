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
from collections.abc import Iterable, Iterator
from pathlib import PurePath

from monai_weckd.data.file_names import SUFFIXES, is_litter, kind_of
from monai_weckd.data.image_files import image_files
from monai_weckd.data.manifest import Row
from monai_weckd.data.masks import IMAGE_FOLDERS, MASK_FOLDERS, find_masks, is_mask_folder
from monai_weckd.data.names import is_unlabeled, plain_key
from monai_weckd.data.passed_over import PassedOver
from monai_weckd.data.series_items import volumes
from monai_weckd.data.split_file import split_name

__all__ = ["inner_folders", "read_folders"]

# what holds the same classes several times
_PARTS = re.compile(
    r"(?:k?fold|cv|split|part|batch|site|cent(?:er|re)|hospital|institution|scanner|dataset|set|reader|rater)[a-z]?\d*"
    r"|(?:patient|pat|pt|subject|subj|sub|case|p|s)\d+|(?:19|20)\d\d"
)
# splits, if they do
_SPLITS = re.compile(
    r"dev|development|eval|evaluation|holdout|trn|tst|tr|te|ts"
    r"|\d*(?:train|training|val|valid|validation|test|testing)(?:images?|imgs?|pics|folder)?\d*"
)
# what lies beside class folders and is no class, as `plain_key` gives its name
_NO_CLASS = re.compile(
    r"backups?.*|bak|bkp|archived?|archives|tmp|temp|temporary|old\d*|trash|deleted|duplicates?|copy|copies"
    r"|newfolder\d*|untitledfolder\d*|neuerordner\d*|nouveaudossier\d*|nuevacarpeta\d*|thumbnails?|previews?"
)
# of a class: its older state, or a copy of it
_COPY_ENDS = re.compile(r"(.+?)(?:copy|backup|bak|old|orig|original)\d*")
_NUMBERED_COPY = re.compile(r"(.+?) ?\(\d+\)")


def read_folders(root: str, passed_over: PassedOver, *, by_series: bool = False) -> list[Row]:
    """Return a row for each image below class folders, with its split if the folders say so.

    Splits are ``train/<class>``, or ``<class>/train``, in any of the spellings that :py:func:`split_name` knows.

    Args:
        root: the folder.
        passed_over: counts the files that are not images.
        by_series: whether a DICOM series is one image, as in 3-D, and not each of its files; default False.

    Raises:
        ValueError: When a class has no image, the folders mix splits and classes, or a folder is no class.

    """
    for entry in os.scandir(root):
        if not entry.is_dir() and not is_litter(entry.name):
            passed_over.files[kind_of(entry.name)] += 1
    folders = _subfolders(root)
    _refuse_others(folders, root)
    splits = {name: split_name(name) for name in folders}
    if not any(splits.values()):
        _refuse_parts(root, folders)
    if not any(splits.values()) or not any(_has_classes(os.path.join(root, name)) for name in folders if splits[name]):
        if folders and all(splits.values()):
            raise _flat_splits(root, folders)
        _note_common(root, folders, passed_over)
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
    _refuse_others(classes, here)
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
        for mask, image in find_masks(files).items():
            raise ValueError(
                f"dataset_dir: expected images in class folders, got {mask!a} beside {image!a}, which looks like its "
                "mask. Move masks elsewhere, or write manifest.csv."
            )
        name = PurePath(folder).name
        if is_unlabeled(name):
            passed_over.missing[f"label {name!r}"] += len(files)
            name = ""
        for file in files:
            yield Row(file, file, name)


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


def _refuse_others(folders: list[str], where: str) -> None:
    """Refuse folders that would become classes and are none: images beside masks or texts, copies, backups."""
    images = [name for name in folders if plain_key(name) in IMAGE_FOLDERS]
    others = [name for name in folders if name not in images]
    if images:
        masks = [name for name in others if plain_key(name) in MASK_FOLDERS]
        beside = f" beside {(masks or others)[0]!a}" if others else ""
        raise ValueError(
            f"dataset_dir: expected a folder for each class in {where!r}, got {images[0]!a}{beside}. "
            "Sort the images into class folders and move masks elsewhere, or write manifest.csv."
        )
    for name in folders:
        if fault := _no_class(name, folders, where):
            raise ValueError(
                f"dataset_dir: expected a folder for each class in {where!r}, got {name!a}, which {fault}. "
                "Move it elsewhere, rename it if it is a class, or write manifest.csv."
            )


def _no_class(name: str, folders: list[str], where: str) -> str:
    """Return why a folder beside others is no class, empty if it may be one."""
    key, classes = plain_key(name), {plain_key(other): other for other in folders if other != name}
    if is_mask_folder(name):
        return "holds masks by its name"
    copy = _COPY_ENDS.fullmatch(key) or _NUMBERED_COPY.fullmatch(name)
    original = classes.get(plain_key(copy[1])) if copy else classes.get(key.removeprefix("copyof"), "")
    if original and original != name and key != plain_key(original):
        return f"is a copy of {original!a} by its name"
    if _NO_CLASS.fullmatch(key):
        return "is no class by its name"
    # numbers may be those of patients
    again = (inner for inner in _subfolders(os.path.join(where, name)) if not inner.isdigit())
    found = next((inner for inner in again if plain_key(inner) in classes), "")
    return f"holds a folder {found!a}, as there is beside it" if found else ""


def _note_common(root: str, folders: list[str], passed_over: PassedOver) -> None:
    """Note that all class folders hold the same folders, so that these may be meant as the classes."""
    inner = [{name for name in _subfolders(os.path.join(root, folder)) if not name.isdigit()} for folder in folders]
    if len(folders) < 2 or any(names != inner[0] for names in inner) or any(map(split_name, inner[0])):
        return
    if len(inner[0]) > 1:
        first, second = sorted(inner[0])[:2]
        passed_over.notes.append(
            f"the classes are {folders[0]!a}, {folders[1]!a} and the like, although each of them holds {first!a} and "
            f"{second!a}"
        )


def _refuse_parts(root: str, folders: list[str]) -> None:
    """Refuse folds, sites and the like that each hold the classes: they would be the classes."""
    keys = list(map(plain_key, folders))
    if len(folders) < 2 or not all(_PARTS.fullmatch(key) or _SPLITS.fullmatch(key) for key in keys):
        return
    inner = set.intersection(*(set(_subfolders(os.path.join(root, name))) for name in folders))
    if len(inner) > 1:
        remedy = "Name splits train, val and test" if any(map(_SPLITS.fullmatch, keys)) else "Put the class first"
        raise ValueError(
            f"dataset_dir: expected a folder for each class in {root!r}, got {folders[0]!a} and {folders[1]!a}, which "
            f"both have {' and '.join(map(ascii, sorted(inner)[:2]))}. {remedy}, or write manifest.csv."
        )
