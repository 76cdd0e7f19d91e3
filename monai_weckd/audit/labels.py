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

"""Find labels that the images of other groups contradict, by confident learning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from monai_weckd.audit.findings import Finding
from monai_weckd.networks.solved_head import group_folds, solve_head
from monai_weckd.plan.label_kind import LabelKind, finding_values
from monai_weckd.plan.oracle import is_labeled
from monai_weckd.utils.enums import UNLABELED

__all__ = ["contradicted_labels", "doubted", "judge_labels", "label_probabilities"]


def judge_labels(
    embeddings: torch.Tensor, items: Sequence[Mapping[str, Any]], kind: LabelKind
) -> tuple[list[Finding], int]:
    """Return the labels that images of other groups contradict, and how many labels could be judged.

    Each finding is judged by itself, where it is known: present and absent are two classes.

    Args:
        embeddings: of all items, (N, D).
        items: the data list.
        kind: the kind of the labels.

    """
    found, judged = [], 0
    for names, labeled in _questions(items, kind):
        probabilities = label_probabilities(embeddings, labeled, num_classes=len(names))
        found += _contradicted(probabilities, labeled, names)
        judged += int(np.isfinite(probabilities).all(axis=1).sum())
    return _in_order(found, items), judged


def _questions(
    items: Sequence[Mapping[str, Any]], kind: LabelKind
) -> Iterator[tuple[Sequence[str], Sequence[Mapping[str, Any]]]]:
    """Yield names of classes, and items with one of them: all classes, or each finding absent and present."""
    if not kind.findings:
        yield kind.names, items
        return
    for place, name in enumerate(kind.names):
        values = [int(item["label"][place]) if item["label"][place] >= 0 else UNLABELED for item in items]
        if {0, 1} <= set(values):
            own = [{**item, "label": value} for item, value in zip(items, values, strict=True)]
            yield (f"{name}=0", f"{name}=1"), own


def label_probabilities(
    embeddings: torch.Tensor, items: Sequence[Mapping[str, Any]], *, num_classes: int
) -> np.ndarray:
    """Return each item's class probabilities by a head that saw no label of its group, (N, C).

    There are two rounds of cross-validation by group. After the first one, the labels that confident learning doubts
    (:py:func:`doubted`) are left out, so that wrong labels do not speak for each other; the second one judges all.
    Rows of items without a label, or whose class no other group has, are NaN.

    Args:
        embeddings: of all items, (N, D).
        items: the data list.
        num_classes: number of classes.

    """
    probabilities = np.full((len(items), num_classes), np.nan)
    labeled = [place for place, item in enumerate(items) if is_labeled(item)]
    if not labeled:
        return probabilities
    features, labels = embeddings[labeled], np.array([items[place]["label"] for place in labeled])
    groups = [items[place]["group"] for place in labeled]
    head = solve_head(features, torch.from_numpy(labels), groups, num_classes=num_classes)
    first = head.out_of_fold.exp().numpy()
    trusted = ~doubted(first, labels)
    folds = group_folds(labels, groups)
    for fold in np.unique(folds[np.isfinite(first).all(axis=1)]):
        kept, held = trusted & (folds != fold), np.flatnonzero(folds == fold)
        if kept.any():
            first[held] = _probabilities(features, labels, groups, kept, held, num_classes)
    probabilities[labeled] = first
    return probabilities


def doubted(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return which labels confident learning counts as another class, (N,), bool.

    Northcutt, Jiang and Chuang, arXiv 1911.00068: a class's threshold is the mean probability that the items labeled
    with it give it. An item counts as the most probable class whose threshold it reaches.

    Args:
        probabilities: out-of-fold probabilities, (N, C); rows may be NaN.
        labels: class of each item, (N,).

    """
    known = np.isfinite(probabilities).all(axis=1)
    thresholds = np.full(probabilities.shape[1], np.inf)
    for label in np.unique(labels[known]):
        thresholds[label] = probabilities[known & (labels == label), label].mean()
    reached = np.where(known[:, None] & (probabilities >= thresholds), probabilities, -1.0)
    found: np.ndarray = (reached.max(axis=1) >= 0) & (reached.argmax(axis=1) != labels)
    return found


def contradicted_labels(
    probabilities: np.ndarray, items: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> list[Finding]:
    """Return the labels for which another class is more probable, the least probable labels first.

    That probability is confident learning's self-confidence. One image of each group comes before further ones.

    Args:
        probabilities: out-of-fold probabilities, (N, C); rows may be NaN.
        items: the data list.
        classes: class names in the order of their indices.

    """
    return _in_order(_contradicted(probabilities, items, classes), items)


def _contradicted(
    probabilities: np.ndarray, items: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> list[Finding]:
    found = []
    for place in np.flatnonzero(np.isfinite(probabilities).all(axis=1)).tolist():
        row, label = probabilities[place], items[place]["label"]
        other = int(row.argmax())
        if other == label:
            continue
        text = (
            f"labeled {classes[label]} (probability {row[label]:.2f}); "
            f"images of other groups suggest {classes[other]} ({row[other]:.2f})"
        )
        found.append(Finding("label", (place,), text, float(row[label]), classes[other]))
    return found


def _probabilities(
    features: torch.Tensor,
    labels: np.ndarray,
    groups: Sequence[str],
    kept: np.ndarray,
    held: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    """Return the probabilities of the held items by a head for the kept ones, (number of held items, C)."""
    places = np.flatnonzero(kept)
    head = solve_head(
        features[places],
        torch.from_numpy(labels[places]),
        [groups[place] for place in places.tolist()],
        num_classes=num_classes,
    )
    found = torch.softmax(features[held].double() @ head.weight.T + head.bias, dim=1).numpy()
    # a class that only this fold has cannot be judged
    found[~np.isin(labels[held], labels[places])] = np.nan
    return found


def _in_order(found: Sequence[Finding], items: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Sort: the least probable first, but further images of a group that ask the same at the end."""
    found = sorted(found, key=lambda finding: finding.score or 0.0)
    seen: Counter[tuple[Any, ...]] = Counter()
    rounds = []
    for finding in found:
        item = items[finding.places[0]]
        # of a finding, the suggestion says what the label is
        label = item["label"] if finding_values(item["label"]) is None else None
        question = item["group"], label, finding.suggested
        rounds.append(seen[question] > 0)
        seen[question] += 1
    order = sorted(range(len(found)), key=lambda place: rounds[place])
    return [found[place] for place in order]
