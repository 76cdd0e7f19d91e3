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

"""Make one item of all images of a series, a study or a patient, with one label."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_weckd.data.datalist import Datalist
from monai_weckd.data.keys import LEVELS, KeyFinder
from monai_weckd.plan.label_kind import finding_values, is_known, label_text
from monai_weckd.utils.enums import IMAGES
from monai_weckd.utils.messages import nearest

__all__ = [
    "ITEM_LEVELS",
    "PLURALS",
    "STEP_BY_STEP",
    "check_item_level",
    "each_image",
    "group_images",
    "has_several",
    "images_in",
    "level_name",
    "refuse_several",
]

ITEM_LEVELS = ("image", *reversed(LEVELS))
STEP_BY_STEP = (
    "item_level: expected 'image' to train a network step by step, got items of several images. Solve heads, as "
    "train.json does, or give each image its label, and pass --aggregate to predict."
)
PLURALS = {"image": "images", "series": "series", "study": "studies", "patient": "patients"}


def group_images(datalist: Datalist, item_level: str, dataset_dir: str | os.PathLike[str]) -> Datalist:
    """Return a data list with one item for each series, study or patient.

    Such an item has the paths of its images under ``images``, in place of one under ``image``. Its ``id`` is the name
    of the patient, of patient and study, or of patient, study and series, with ``/`` between them. The patient is the
    image's group. Study and series are those of the manifest's columns ``study`` and ``series``, else those of the
    DICOM header, under a name that reveals nothing about the patient. An image whose series (study, patient) is not
    known is an item of its own. Images without a label take that of the others; of findings, each takes what is known.

    Args:
        datalist: a data list with one item for each image.
        item_level: "image", "series", "study" or "patient"; "image" returns the same list.
        dataset_dir: the folder of the images.

    Raises:
        ValueError: When there is no such level, no image has a known one, or images of one item have two labels or
            splits.

    """
    check_item_level(item_level)
    if item_level == "image":
        return datalist
    keys = _item_keys(datalist, item_level, dataset_dir)
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for item, key in zip(datalist.items, keys, strict=True):
        found.setdefault(key or (*[""] * len(LEVELS), item["id"]), []).append(item)
    if not any(keys):
        raise ValueError(
            f"item_level: expected images with a known {item_level}, got none of {len(datalist.items)}. Pass DICOM "
            f"images, or add a column {'group' if item_level == 'patient' else item_level} to manifest.csv."
        )
    bags = {level_name(key): images for key, images in found.items()}
    if len(bags) < len(found):
        name = Counter(map(level_name, found)).most_common(1)[0][0]
        raise ValueError(
            f"item_level: expected {PLURALS[item_level]} with names of their own, got {name!r} for several, in which "
            "'/' stands between patient, study and series. Rename one."
        )
    _refuse_contradictions(bags, item_level, datalist.classes)
    items = [_item(name, images) for name, images in bags.items()]
    layout = "; ".join(filter(None, (datalist.layout, _counts(items, item_level))))
    return datalist._replace(items=items, item_level=item_level, layout=layout)


def check_item_level(item_level: str) -> None:
    """Refuse what is no level of items.

    Args:
        item_level: see :py:func:`group_images`.

    Raises:
        ValueError: When there is no such level.

    """
    if item_level not in ITEM_LEVELS:
        hint = nearest(item_level, ITEM_LEVELS)
        raise ValueError(f"item_level: expected one of {ITEM_LEVELS}, got {item_level!r}. {hint}")


def level_name(names: Iterable[str]) -> str:
    """Return the name of a patient, study or series.

    Args:
        names: its names from the patient down, see :py:meth:`monai_weckd.data.keys.ImageKeys.of`; empty ones are left
            out.

    """
    return "/".join(filter(None, names))


def has_several(items: Any) -> bool:
    """Return whether the items of a list are of several images, by the first of them.

    Args:
        items: dictionaries with ``images`` and no ``image``, or with ``image``; anything else has no such items.

    Example::

        >>> has_several([{"images": ("a.png", "b.png")}]), has_several([{"image": "a.png", "images": 2}])
        (True, False)

    """
    first = items[0] if isinstance(items, Sequence) and items else None
    return isinstance(first, Mapping) and IMAGES in first and "image" not in first


def images_in(item: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths of an item's images.

    Args:
        item: dictionary with ``images``, or with ``image``.

    Example::

        >>> images_in({"image": "a.png"}), images_in({"images": ("a.png", "b.png")})
        (('a.png',), ('a.png', 'b.png'))

    """
    return (item["image"],) if "image" in item else tuple(item[IMAGES])


def each_image(items: Sequence[Mapping[str, Any]], *, image_key: str = "image") -> list[dict[str, Any]]:
    """Return an item for each image of items, with what else its item has.

    Args:
        items: dictionaries with ``images``, or with one image.
        image_key: key of one image, default "image".

    Example::

        >>> each_image([{"images": ("a.png", "b.png"), "label": 1}])
        [{'label': 1, 'image': 'a.png'}, {'label': 1, 'image': 'b.png'}]

    """
    if not has_several(items):
        return list(map(dict, items))
    rests = [{key: value for key, value in item.items() if key != IMAGES} for item in items]
    return [{**rest, image_key: image} for item, rest in zip(items, rests, strict=True) for image in item[IMAGES]]


def refuse_several(items: Any) -> None:
    """Refuse items of several images where a network is trained step by step.

    Args:
        items: as for :py:func:`has_several`.

    Raises:
        ValueError: When they have several images.

    """
    if has_several(items):
        raise ValueError(STEP_BY_STEP)


def _item_keys(datalist: Datalist, level: str, dataset_dir: str | os.PathLike[str]) -> list[tuple[str, ...]]:
    """Return the names of the series (study, patient) of each image, from the patient down, empty if not known."""
    root, items = Path(os.path.abspath(dataset_dir)), datalist.items
    if root.is_file():  # the images of an archive have no names
        return [()] * len(items)
    finder = KeyFinder(root, passed_over=datalist.passed_over if level != "patient" else None)
    if finder.fault:
        raise ValueError(finder.fault)
    # an image of an unknown patient has a group of its own
    patients = ["" if item["group"] == item["id"] else str(item["group"]) for item in items]
    return [
        finder.find(item["image"])._replace(patient=patient).of(level)
        for item, patient in zip(items, patients, strict=True)
    ]


def _item(name: str, images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = images[0]
    group = first["group"] if first["group"] != first["id"] else name
    rest = {"label": _joined([image["label"] for image in images]), "group": group, "id": name}
    split = {"split": first["split"]} if "split" in first else {}
    return {IMAGES: tuple(image["image"] for image in images), **rest, **split}


def _joined(labels: Sequence[Any]) -> Any:
    """Return the label of an item: of findings, what is known of each."""
    known = [label for label in labels if is_known(label)]
    if not known or finding_values(known[0]) is None:
        return known[0] if known else labels[0]
    return np.stack([np.asarray(label) for label in known]).max(axis=0)


def _contradict(labels: Sequence[Any]) -> bool:
    if finding_values(labels[0]) is None:
        return len(set(labels)) > 1
    values = np.stack([np.asarray(label) for label in labels])
    return bool(((values == 0).any(axis=0) & (values == 1).any(axis=0)).any())


def _refuse_contradictions(bags: Mapping[str, Sequence[Mapping[str, Any]]], level: str, classes: Sequence[str]) -> None:
    """Refuse items whose images differ in label or split; the message names the first."""
    several = {}
    for name, images in bags.items():
        known = [image for image in images if is_known(image["label"])]
        other = next((image for image in known if _contradict([known[0]["label"], image["label"]])), None)
        if other is not None:
            several[name] = [(image["id"], label_text(image["label"], classes)) for image in (known[0], other)]
        splits = {image.get("split"): image["id"] for image in reversed(images)}
        if len(splits) > 1:
            raise ValueError(
                f"item_level: expected the images of {level} {name!r} in one split, got {splits}. Correct the splits."
            )
    if several:
        name, ((first, label), (second, another)) = next(iter(several.items()))
        raise ValueError(
            f"item_level: expected one label for each {level}, got several for {len(several)} of {len(bags)}, first "
            f"{name!r}: {label!r} for {first!r} and {another!r} for {second!r}. Correct the labels, or pass "
            "item_level image."
        )


def _counts(items: Sequence[Mapping[str, Any]], level: str) -> str:
    counts = [len(item[IMAGES]) for item in items]
    labels = sum(is_known(item["label"]) for item in items)
    return (
        f"{sum(counts)} images in {len(items)} {PLURALS[level]}, {min(counts)} to {max(counts)} each (median "
        f"{statistics.median(counts):g}); {labels} {PLURALS[level]} with a label"
    )
