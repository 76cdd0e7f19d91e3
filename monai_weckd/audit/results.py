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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from monai_weckd.data.datalist import Datalist
from monai_weckd.metrics import bootstrap_intervals, classification_metrics, finding_intervals, finding_metrics
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.plan.oracle import is_labeled
from monai_weckd.plan.splits import SPLITS
from monai_weckd.utils.records import read_probabilities, read_sealed, read_text
from monai_weckd.visualize.findings import read_findings
from monai_weckd.visualize.report import read_predictions

__all__ = ["FINDING_METRICS", "METRICS", "RunResults", "measure_subgroup", "read_run"]

METRICS = ("accuracy", "balanced_accuracy")
FINDING_METRICS = ("auc", "average_precision", "f1")
_ENOUGH = 5  # groups for an interval
_SPLITS = {"test": "test", "val": "validation"}


@dataclass(frozen=True)
class RunResults:
    """The predictions of a finished training on images that it did not learn from.

    Args:
        split: "test", or "validation" where there was no test split.
        probabilities: probabilities by item, in the data list's order of classes or findings.
        absent: number of predictions of images that are not in the data list, or have no label there.
        splits: "train", "val" or "test" by item, default none: the run has no plan.
        findings: names of the findings, default none: an image has one class.
        thresholds: from which probability on each finding counts as present.

    """

    split: str
    probabilities: Mapping[str, Sequence[float]]
    absent: int = 0
    splits: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    thresholds: Sequence[float | None] | None = None


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
    kind = LabelKind(tuple(chain["classes"]), bool(chain.get("findings")))
    if kind.findings != datalist.findings or set(kind.names) != set(datalist.classes):
        raise ValueError(
            f"run: expected a training on the {datalist.kind.word} names {list(datalist.classes)}, got the "
            f"{kind.word} names {chain['classes']}. Pass the dataset_dir of that training."
        )
    rows = (read_findings if kind.findings else read_predictions)(folder / "predictions.csv", chain["classes"])
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
    about: dict[str, Any] = {}
    if kind.findings:
        limits = dict(zip(kind.names, chain["final"]["thresholds"], strict=True))
        about = {"findings": datalist.classes, "thresholds": [limits[name] for name in datalist.classes]}
    return RunResults(_SPLITS[split], probabilities, len(rows) - len(known), _read_splits(folder), **about)


def _read_splits(folder: Path) -> dict[str, str]:
    if not (folder / "plan.json").is_file():
        return {}
    plan = ChainPlan.from_json(read_text(folder / "plan.json"))
    return {key: split for split in SPLITS for key in getattr(plan, split)}


def measure_subgroup(run: RunResults, items: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Measure a training on those of the given images that it was tested on; None if there are none.

    The 95 % interval is a bootstrap over the groups; that of the balanced accuracy needs two of each class. Where all
    groups are right, or all wrong, nothing varies between resamples, and the exact binomial limit replaces it.

    Args:
        run: the training's results.
        items: items of the data list.

    Returns:
        ``images``, ``groups``, and by metric its ``value`` and ``interval``, None with too few groups; five are enough.
        Of findings, these are means, and ``classes`` has for each finding the same on the images in which it is known;
        a value is None where it is not both present and absent.

    """
    tested = [item for item in items if item["id"] in run.probabilities]
    if not tested:
        return None
    probabilities = np.array([run.probabilities[item["id"]] for item in tested])
    labels = np.array([item["label"] for item in tested])
    groups = [item["group"] for item in tested]
    if run.findings:
        return _measure_findings(run, probabilities, labels, groups)
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


def _measure_findings(
    run: RunResults, probabilities: np.ndarray, labels: np.ndarray, groups: Sequence[str]
) -> dict[str, Any]:
    values = finding_metrics(probabilities, labels, run.thresholds)
    limits = finding_intervals(probabilities, labels, run.thresholds, groups=groups)
    names, classes = np.array(groups), {}
    for place, (name, value, own) in enumerate(zip(run.findings, values["findings"], limits["findings"], strict=True)):
        of_answer = [set(names[labels[:, place] == answer].tolist()) for answer in (0, 1)]
        enough = min(map(len, of_answer)) > 1  # resamples of an answer with one group never vary
        classes[name] = _figures(value, own if enough else {}, value["known"], len(set.union(*of_answer)))
    value, own = ({name: found[f"macro_{name}"] for name in FINDING_METRICS} for found in (values, limits))
    return {**_figures(value, own, len(labels), len(set(groups))), "classes": classes}


def _figures(values: Mapping[str, Any], limits: Mapping[str, Any], images: int, groups: int) -> dict[str, Any]:
    found: dict[str, Any] = {"images": images, "groups": groups}
    for name in FINDING_METRICS:
        low, high = (limits.get(name) if groups >= _ENOUGH else None) or (0.0, 0.0)
        # resamples that rank all pairs alike do not tell how often others would
        found[name] = {"value": values[name], "interval": [low, high] if low < high else None}
    return found


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
