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

"""Predictions and stages as plain data for clients of a label server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["described", "stage_summary"]


def described(
    probabilities: np.ndarray, classes: tuple[str, ...], thresholds: Sequence[float | None] | None = None
) -> dict[str, Any]:
    """Return class probabilities as JSON-compatible data.

    Args:
        probabilities: (C,).
        classes: names of the classes, or of the findings, in the order of their indices.
        thresholds: from which probability on each finding counts as present, None for one that never does; default
            None: an image has one class.

    Returns:
        ``label`` and ``idx`` of the most probable class, ``prediction`` with ``idx``, ``label`` and ``score`` of each
        class, and the ``entropy`` in nats. Of findings, ``label`` has those that are present, with ``|`` between
        them, there is no ``idx``, each has its ``threshold``, and the entropy is their mean.

    Example::

        >>> described(np.array([0.25, 0.75]), ("ill", "Background"))["label"]
        'Background'

    """
    if thresholds is not None:
        return _described_findings(probabilities, classes, thresholds)
    best = int(probabilities.argmax())
    positive = probabilities[probabilities > 0].astype(float)
    return {
        "label": classes[best],
        "idx": best,
        "prediction": [
            {"idx": index, "label": name, "score": float(score)}
            for index, (name, score) in enumerate(zip(classes, probabilities, strict=True))
        ],
        "entropy": float(-(positive * np.log(positive)).sum()),
    }


def _described_findings(
    probabilities: np.ndarray, names: tuple[str, ...], thresholds: Sequence[float | None]
) -> dict[str, Any]:
    told = list(zip(names, map(float, probabilities), thresholds, strict=True))
    both = np.clip(np.stack([probabilities, 1 - probabilities]).astype(float), 1e-12, 1)
    return {
        "label": "|".join(name for name, value, limit in told if limit is not None and value >= limit),
        "prediction": [
            {"idx": index, "label": name, "score": value, "threshold": limit}
            for index, (name, value, limit) in enumerate(told)
        ],
        "entropy": float(-(both * np.log(both)).sum(axis=0).mean()),
    }


def stage_summary(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the main figures of a stage.

    Args:
        stage: a stage in ``chain.json``.

    """
    names = ("stage", "teacher", "labeled", "groups", "pool", "accepted", "seconds")
    validation = stage["val"] or {}
    of_findings = ("macro_auc", "macro_average_precision", "macro_f1")
    wanted = of_findings if "thresholds" in stage else ("balanced_accuracy", "accuracy", "macro_auc")
    figures = {name: validation.get(name) for name in wanted}
    return {**{name: stage[name] for name in names}, **stage["gate"], "validation": figures}
