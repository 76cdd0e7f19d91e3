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

from __future__ import annotations

import numpy as np


def figure_bounds(probabilities, labels, *, tolerance):
    """Return the lowest and the highest value that figures can have where each probability may be a little off.

    A figure of ranks or of decisions jumps where two probabilities change places, and by as much as one item counts.
    Two computations of the same probabilities, which agree within rounding, agree on figures within these bounds.

    Args:
        probabilities: (items, classes).
        labels: a class index for each item.
        tolerance: by how much a probability may be off.

    """
    probabilities, labels = np.asarray(probabilities, dtype=float), np.asarray(labels)
    own = probabilities[np.arange(len(labels)), labels]
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1
    lead = own - others.max(axis=1)
    found = {"accuracy": [], "balanced_accuracy": [], "macro_auc": []}
    for limit in (2 * tolerance, -2 * tolerance):
        right = lead > limit
        found["accuracy"].append(right.mean())
        found["balanced_accuracy"].append(np.mean([right[labels == c].mean() for c in np.unique(labels)]))
        gaps = [probabilities[labels == c, c][:, None] - probabilities[labels != c, c] for c in np.unique(labels)]
        found["macro_auc"].append(np.mean([(gap > limit).mean() for gap in gaps]))
    return {name: tuple(map(float, pair)) for name, pair in found.items()}


def assert_figures_fit(figures, rows, classes, *, tolerance, names=("accuracy", "balanced_accuracy", "macro_auc")):
    """Check figures against the probabilities that they are of.

    Args:
        figures: values by the figures' names.
        rows: one for each item, with its "label" and "probability_<class>", as in predictions.csv.
        classes: names of the classes.
        tolerance: by how much a probability may be off.
        names: the figures to check.

    """
    probabilities = [[float(row[f"probability_{name}"]) for name in classes] for row in rows]
    bounds = figure_bounds(probabilities, [classes.index(row["label"]) for row in rows], tolerance=tolerance)
    for name in names:
        lower, upper = bounds[name]
        assert upper - lower < 0.25, f"{name}: these probabilities leave it open, {bounds[name]}"
        assert lower - 1e-6 <= float(figures[name]) <= upper + 1e-6, (name, figures[name], bounds[name])
