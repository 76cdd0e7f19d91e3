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

"""Find images with the same bytes or pixels under two labels, or on two sides of a split."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from monai_weckd.data.image_files import image_files
from monai_weckd.data.item_level import images_in
from monai_weckd.plan.label_kind import label_text
from monai_weckd.plan.oracle import is_labeled
from monai_weckd.plan.splits import group_of
from monai_weckd.utils.messages import printable

__all__ = ["duplicate_notes", "identical_images", "parted"]

_END = 1 << 14  # bytes of a file's start and end that are compared before the rest


def duplicate_notes(
    items: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    splits: Mapping[str, str] | None = None,
    *,
    alike: Callable[[list[list[str]]], list[list[str]]] | None = None,
) -> list[str]:
    """Return a line for each way in which identical images contradict each other: labels, splits, groups.

    Images are identical if their files are. Only files of equal size are opened. Images of an archive are not compared.

    Args:
        items: dictionaries with ``id``, ``image`` or ``images``, ``label``, ``group`` and, if known, ``split``.
        classes: class names in the order of their indices.
        splits: split of each item by its id, default None: that of the item.
        alike: returns the sets of images with the same pixels, given those with the same bytes, default None: the notes
            are of the latter.

    """
    by_image: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for item in items:
        for image in images_in(item):
            by_image[image].append(item)
    same, how = identical_images(by_image), "are byte-identical to"
    if alike is not None:
        same, how = alike(same), "have the same pixels as"
    sets = [[item for image in images for item in by_image[image]] for images in same]

    def label_of(item: Mapping[str, Any]) -> str | None:
        return label_text(item["label"], classes) if is_labeled(item) else None

    def split_of(item: Mapping[str, Any]) -> str | None:
        return item.get("split") if splits is None else splits.get(item["id"])

    kinds: tuple[tuple[str, Callable[[Mapping[str, Any]], str | None], str], ...] = (
        ("labels", label_of, "Correct the labels, or leave the images out."),
        ("splits", split_of, "Give them one group."),
        ("groups", group_of, "Give them one group, or a split may part them."),
    )
    return [note for kind, value_of, remedy in kinds if (note := _note(sets, kind, value_of, how, remedy))]


def _note(
    sets: Iterable[list[Mapping[str, Any]]],
    kind: str,
    value_of: Callable[[Mapping[str, Any]], str | None],
    how: str,
    remedy: str,
) -> str:
    told = [{value: item for item in reversed(copies) if (value := value_of(item)) is not None} for copies in sets]
    apart = [(copies, found) for copies, found in zip(sets, told, strict=True) if len(found) > 1]
    if not apart:
        return ""
    (first, item), (second, other) = list(apart[0][1].items())[:2][::-1]
    return (
        f"{sum(len(copies) for copies, _ in apart)} images {how} another one with other {kind}, first "
        f"{item['id']!r} ({printable(first)}) and {other['id']!r} ({printable(second)}). {remedy}"
    )


def identical_images(paths: Iterable[str]) -> list[list[str]]:
    """Return the sets of two or more byte-identical images; empty and unreadable files are left out.

    Args:
        paths: files, or folders of files; others are ignored.

    """
    sets = [list(paths)]
    for key in (_sizes, partial(_digests, whole=False), partial(_digests, whole=True)):
        sets = [part for images in sets for part in parted(images, key)]
    return sets


def parted(images: Iterable[str], key: Callable[[str], Hashable]) -> list[list[str]]:
    """Return the sets of two or more images with the same key; those without one are in none.

    Args:
        images: the images.
        key: returns the key of an image, None if it has none.

    """
    parts: dict[Hashable, list[str]] = defaultdict(list)
    for image in images:
        found = key(image)
        if found is not None:
            parts[found].append(image)
    return [part for part in parts.values() if len(part) > 1]


def _files(path: str) -> Iterable[str]:
    return image_files(path) if os.path.isdir(path) else [path]


def _sizes(path: str) -> Hashable:
    sizes = sorted(os.path.getsize(file) for file in _files(path) if os.path.isfile(file))
    return tuple(sizes) if any(sizes) else None


def _digests(path: str, *, whole: bool) -> Hashable:
    try:
        # the modification time is part of the key, because one process may plan twice while files change
        return tuple(sorted(_digest(file, os.stat(file).st_mtime_ns, whole=whole) for file in _files(path)))
    except OSError:  # verification names it
        return None


@lru_cache(maxsize=1 << 20)
def _digest(file: str, changed: int, *, whole: bool) -> bytes:
    found = hashlib.blake2b(digest_size=20)
    with open(file, "rb") as stream:
        if whole:
            while block := stream.read(1 << 20):
                found.update(block)
        else:
            found.update(stream.read(_END))
            stream.seek(max(_END, os.fstat(stream.fileno()).st_size - _END))
            found.update(stream.read(_END))
    return found.digest()
