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

"""What identifies a run: the settings that must match on resume, and the settings stored with its results."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import zip_longest
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_weckd.bundle.checks import calling_parser
from monai_weckd.data.content import content_key
from monai_weckd.data.datalist import Datalist
from monai_weckd.data.item_level import images_in
from monai_weckd.data.phantoms import is_phantom
from monai_weckd.plan.label_kind import plain_label

__all__ = [
    "PLACES",
    "check_transforms",
    "describe_transforms",
    "recorded_settings",
    "run_settings",
    "without_places",
]


_READING = ("LoadImaged", "LoadMedicalImaged", "EnsureTyped")


# places and loading options do not affect the result
PLACES = frozenset(
    {
        "_meta_",
        "bundle_root",
        "dataset_dir",
        "output_dir",
        "cache_dir",
        "overwrite",
        "resume",
        "device",
    }
)
# parts of ``train`` that do not affect the result either
_PARTS = ("monitors", "checkpoint")


# further keys that may differ on resume: the run's steps, its imports, and MONAI's tracking
_NOT_A_SETTING = PLACES | {
    "imports",
    "initialize",
    "run",
    "finalize",
    "tracking_uri",
    "experiment_name",
    "run_name",
    "save_execute_config",
    "is_not_rank0",
}


def run_settings(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return all settings that must match when an interrupted run resumes; call it from within a configuration.

    These are the configuration's values as written, by their places, without file locations, workers and the like. A
    digest of the data list and of the bytes of its images is included; each image is read once.

    Args:
        items: the data list.

    Raises:
        RuntimeError: When it is called from outside a configuration.

    """
    config = without_places(calling_parser("run_settings").get(), _NOT_A_SETTING)
    archives: dict[str, str] = {}
    rows = [
        [
            *(item["id"], item["group"], item.get("split"), plain_label(item["label"])),
            *(content_key(image, archives) for image in images_in(item)),
        ]
        for item in items
    ]
    # labels are used for the digest only
    content = hashlib.sha256(json.dumps(sorted(rows, key=str)).encode()).hexdigest()
    return {**dict(_leaves(config, "")), "images and their list": f"{len(rows)} items, digest {content[:16]}"}


def without_places(config: Mapping[str, Any], places: Collection[str] = PLACES) -> dict[str, Any]:
    """Return a copy of a configuration without the keys that do not affect the trained weights.

    Args:
        config: the configuration as written.
        places: top-level keys to leave out, default ``PLACES``.

    """
    kept = deepcopy({key: value for key, value in config.items() if key not in places})
    train = kept.get("train")
    if isinstance(train, dict):
        kept["train"] = {key: value for key, value in train.items() if key not in _PARTS}
        if isinstance(train.get("dataloader"), dict):
            train["dataloader"].pop("num_workers", None)
    return kept


def recorded_settings(dataset_dir: str | os.PathLike[str], datalist: Datalist | None = None) -> dict[str, Any]:
    """Return the plain values that a run records beside the chain's options; call it from within a configuration.

    These are the top-level numbers, texts and lists, and those of the loss function.

    Args:
        dataset_dir: the folder of the data; ``synthetic`` in the result says whether it holds phantoms.
        datalist: the data list, default None: unknown; ``passed_over`` in the result says what was not used, and
            ``item_level`` of what an item is all images, if it is not one image.

    Raises:
        RuntimeError: When it is called from outside a configuration.

    """
    config = calling_parser("recorded_settings").get()
    loss = {key: value for key, value in config.get("loss_function", {}).items() if not key.startswith("_")}
    top = {**config, **loss}
    found = {key: value for key, value in top.items() if key not in _NOT_A_SETTING and _is_plain(value)}
    passed_over = datalist.passed_over.text() if datalist is not None else ""
    told = {"passed_over": passed_over} if passed_over else {}
    if datalist is not None and datalist.item_level != "image":
        told["item_level"] = datalist.item_level
    return {**found, "synthetic": is_phantom(Path(dataset_dir)), **told}


def _is_plain(value: Any) -> bool:
    """Return whether a value is neither an expression, nor a reference, nor a component."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return not value.startswith(("$", "@", "%"))
    return value is None or isinstance(value, (bool, int, float))


def describe_transforms(place: str, parser: ConfigParser | None = None) -> list[Any]:
    """Return the transforms that a configuration applies to a loaded image, as values for JSON.

    Transforms that load the file or set the tensor type are left out: they differ between programs and change no value.

    Args:
        place: place of the list of transforms, each with a ``_target_``, such as "train#deterministic_transforms".
        parser: the configuration's parser, default None: that of the calling configuration.

    Raises:
        RuntimeError: When it is called from outside a configuration, without a parser.

    """
    parser = parser or calling_parser("describe_transforms")

    def plain(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("@"):
            value = parser.get_parsed_content(value[1:])
        return json.loads(json.dumps(value, default=str))

    found = []
    for transform in parser[place]:
        name = transform["_target_"].rpartition(".")[2]
        if name not in _READING:
            found.append({**{key: plain(value) for key, value in transform.items()}, "_target_": name})
    return found


def check_transforms(place: str, recorded: Sequence[Any], parser: ConfigParser) -> None:
    """Refuse transforms other than those that a model was trained with.

    Args:
        place: place of the list of transforms, as for :py:func:`describe_transforms`.
        recorded: the model's ``preprocessing`` in ``chain.json``.
        parser: the configuration's parser.

    Raises:
        ValueError: When one differs.

    """
    for transform, other in zip_longest(recorded, describe_transforms(place, parser)):
        if transform != other:
            raise ValueError(
                f"preprocessing: expected {json.dumps(transform)}, as the model was trained, "
                f"got {json.dumps(other)}. Take the overlay and settings of the training."
            )


def _leaves(config: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of a nested configuration with their places, such as "train#dataset#data"."""
    if isinstance(config, (dict, list)) and config:
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            yield from _leaves(value, f"{place}#{key}" if place else str(key))
    else:
        yield place, config
