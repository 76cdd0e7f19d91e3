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

"""Measure a finished training on subgroups of its test images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_weckd.data.datalist import Datalist
from monai_weckd.metrics import bootstrap_intervals, classification_metrics
from monai_weckd.plan.oracle import is_labeled
from monai_weckd.utils.records import read_probabilities, read_sealed
from monai_weckd.visualize.report import read_predictions

__all__ = ["METRICS", "RunResults", "measure_subgroup", "read_run"]

METRICS = ("accuracy", "balanced_accuracy")
_ENOUGH = 5  # groups for an interval
_SPLITS = {"test": "test", "val": "validation"}


@dataclass(frozen=True)
class RunResults:
    """The predictions of a finished training on images that it did not learn from.

    Args:
        split: "test", or "validation" where there was no test split.
        probabilities: class probabilities by item, in the data list's order of classes.
        absent: number of predictions of images that are not in the data list, or have no label there.

    """

    split: str
    probabilities: Mapping[str, Sequence[float]]
    absent: int = 0


def read_run(output_dir: str | os.PathLike[str], datalist: Datalist) -> RunResults:
    """Read the predictions that a training has written.

    Args:
        output_dir: its output folder.
        datalist: the items.

    Raises:
        ValueError: When it is not the folder of a finished training, the training held no image out, or it used another
            data set.

    """
    folder = Path(output_dir)
    if not (folder / "predictions.csv").is_file():
        raise ValueError(
            f"run: expected the output folder of a finished training, got {str(folder)!r} without predictions.csv. "
            "Pass the output_dir of such a training."
        )
    chain = read_sealed(folder / "chain.json", ("classes",))
    if set(chain["classes"]) != set(datalist.classes):
        raise ValueError(
            f"run: expected a training on the classes {list(datalist.classes)}, got {chain['classes']}. "
            "Pass the dataset_dir of that training."
        )
    rows = read_predictions(folder / "predictions.csv", chain["classes"])
    split = next((name for name in _SPLITS if any(row["split"] == name for row in rows)), None)
    if split is None:
        raise ValueError(
            f"run: expected predictions of test or validation images in {str(folder)!r}, got none. "
            "Pass a training with a test split, such as one with --test_fraction 0.2."
        )
    rows = [row for row in rows if row["split"] == split]
    labeled = {item["id"] for item in datalist.items if is_labeled(item)}
    known = [row for row in rows if row["id"] in labeled]
    if not known:
        raise ValueError(
            f"run: expected predictions of labeled images of the data set, got {len(rows)} of others, first "
            f"{rows[0]['id']!r}. Pass the dataset_dir of that training."
        )
    probabilities = {row["id"]: _probabilities(row, datalist.classes) for row in known}
    return RunResults(_SPLITS[split], probabilities, len(rows) - len(known))


def measure_subgroup(run: RunResults, items: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Measure a training on those of the given images that it was tested on; None if there are none.

    The 95 % interval is a bootstrap over the groups; that of the balanced accuracy needs two of each class. Where all
    groups are right, or all wrong, nothing varies between resamples, and the exact binomial limit replaces it.

    Args:
        run: the training's results.
        items: items of the data list.

    Returns:
        ``images``, ``groups``, and by metric its ``value`` and ``interval``, None with too few groups; five are enough.

    """
    tested = [item for item in items if item["id"] in run.probabilities]
    if not tested:
        return None
    probabilities = np.array([run.probabilities[item["id"]] for item in tested])
    labels = np.array([item["label"] for item in tested])
    groups = [item["group"] for item in tested]
    count = len(set(groups))
    values = classification_metrics(probabilities, labels)
    limits = bootstrap_intervals(probabilities, labels, groups=groups) if count >= _ENOUGH else {}
    if min(Counter(label for label, _ in set(zip(labels.tolist(), groups, strict=True))).values()) == 1:
        limits["balanced_accuracy"] = None  # resamples of a class with one group never vary
    return {
        "images": len(tested),
        "groups": count,
        **{name: {"value": values[name], "interval": _interval(limits.get(name), count)} for name in METRICS},
    }


def _interval(limits: tuple[float, float] | None, groups: int) -> list[float] | None:
    if limits is None:
        return None
    low, high = limits
    if low == high:  # Clopper and Pearson, Biometrika 26, 1934, for groups that are all right or all wrong
        margin = 1 - 0.025 ** (1 / groups)
        low, high = max(low - margin, 0.0), min(high + margin, 1.0)
    return [low, high]


def _probabilities(row: Mapping[str, str], classes: Sequence[str]) -> list[float]:
    try:
        return read_probabilities(row, classes)
    except ValueError as error:
        raise ValueError(f"predictions.csv: {error} for {row['id']!r}. Write the file again.") from error
