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

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["described", "stage_summary"]


def described(probabilities: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return class probabilities as JSON-compatible data.

    Args:
        probabilities: (C,).
        classes: class names in the order of their indices.

    Returns:
        ``label`` and ``idx`` of the most probable class, ``prediction`` with ``idx``, ``label`` and ``score`` of each
        class, and the ``entropy`` in nats.

    Example::

        >>> described(np.array([0.25, 0.75]), ("ill", "Background"))["label"]
        'Background'

    """
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


def stage_summary(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the main figures of a stage.

    Args:
        stage: a stage in ``chain.json``.

    """
    names = ("stage", "teacher", "labeled", "groups", "pool", "accepted", "seconds")
    validation = stage["val"] or {}
    figures = {name: validation.get(name) for name in ("balanced_accuracy", "accuracy", "macro_auc")}
    return {**{name: stage[name] for name in names}, **stage["gate"], "validation": figures}
