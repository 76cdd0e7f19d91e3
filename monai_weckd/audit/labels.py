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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from monai_weckd.audit.findings import Finding
from monai_weckd.networks.solved_head import solve_head
from monai_weckd.plan.oracle import is_labeled

__all__ = ["contradicted_labels", "label_probabilities"]


def label_probabilities(
    embeddings: torch.Tensor, items: Sequence[Mapping[str, Any]], *, num_classes: int
) -> np.ndarray:
    """Return each item's class probabilities by a head that saw no label of its group, (N, C).

    Rows of items without a label, or whose class no other group has, are NaN.

    Args:
        embeddings: of all items, (N, D).
        items: the data list.
        num_classes: number of classes.

    """
    probabilities = np.full((len(items), num_classes), np.nan)
    labeled = [place for place, item in enumerate(items) if is_labeled(item)]
    if labeled:
        labels = torch.tensor([items[place]["label"] for place in labeled])
        groups = [items[place]["group"] for place in labeled]
        head = solve_head(embeddings[labeled], labels, groups, num_classes=num_classes)
        probabilities[labeled] = head.out_of_fold.exp().numpy()
    return probabilities


def contradicted_labels(
    probabilities: np.ndarray, items: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> list[Finding]:
    """Return the labels that are probably wrong, the least probable first, but one of each group before further ones.

    Confident learning (Northcutt, Jiang and Chuang, arXiv 1911.00068): a class's threshold is the mean probability that
    the items labeled with it give it. An item counts as another class if it reaches that class's threshold, and the
    probability of no other class that it reaches is higher. Such labels are ranked by their own probability, the
    self-confidence.

    Args:
        probabilities: out-of-fold probabilities, (N, C); rows may be NaN.
        items: the data list.
        classes: class names in the order of their indices.

    """
    known = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    if not len(known):
        return []
    rows, labels = probabilities[known], np.array([items[place]["label"] for place in known.tolist()])
    thresholds = np.array([rows[labels == k, k].mean() if (labels == k).any() else np.inf for k in range(len(classes))])
    reached = np.where(rows >= thresholds, rows, -1)
    found = []
    for place, row, label, confident in zip(known, rows, labels, reached, strict=True):
        other = int(confident.argmax())
        if confident[other] < 0 or other == label:
            continue
        text = (
            f"labeled {classes[label]} (probability {row[label]:.2f}); "
            f"images of other groups suggest {classes[other]} ({row[other]:.2f})"
        )
        found.append(Finding("label", (int(place),), text, float(row[label]), other))
    return _one_of_each_group_first(sorted(found, key=lambda finding: finding.score or 0.0), items)


def _one_of_each_group_first(found: Sequence[Finding], items: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Put further images of a group with the same label and suggestion behind: they mostly pose the same question."""
    seen: Counter[tuple[Any, ...]] = Counter()
    rounds = []
    for finding in found:
        item = items[finding.places[0]]
        question = item["group"], item["label"], finding.suggested
        rounds.append(seen[question] > 0)
        seen[question] += 1
    order = sorted(range(len(found)), key=lambda place: rounds[place])
    return [found[place] for place in order]
