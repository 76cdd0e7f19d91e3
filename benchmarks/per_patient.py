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

"""Compare the pooled features of a patient's images with a label for each image, for as many labels of patients."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import t as student
from sklearn.model_selection import StratifiedKFold

from benchmarks.few_labels import BUNDLES, Fold, embed
from benchmarks.harness import machine
from monai_weckd.data.embedding import pooled
from monai_weckd.metrics import classification_metrics

BUDGETS = (20, 40, 80)
FOLDS, REPEATS = 5, 2
LEAST = 2  # labels of each class: with fewer, nothing can be held out


class Patients(NamedTuple):
    """The images of patients who have one label each, in the order of the patients.

    Args:
        features: of the images, (N, D).
        patient: of each image, (N,), from 0.
        labels: of the patients, (P,).
        left_out: number of patients whose images have several labels.

    """

    features: torch.Tensor
    patient: np.ndarray
    labels: np.ndarray
    left_out: int

    @property
    def pooled(self) -> torch.Tensor:
        """The mean of the features of each patient's images, (P, D)."""
        counts = np.bincount(self.patient).tolist()
        return torch.from_numpy(pooled(self.features.numpy(), np.arange(len(self.patient)), counts))


def patients_of(features: torch.Tensor, labels: np.ndarray, groups: np.ndarray) -> Patients:
    """Return the patients of images; those with several labels are left out.

    Args:
        features: (N, D).
        labels: (N,).
        groups: (N,).

    """
    names = np.unique(groups)
    agreed = [name for name in names if len(set(labels[groups == name])) == 1]
    places = np.concatenate([np.flatnonzero(groups == name) for name in agreed])
    patient = np.searchsorted(agreed, groups[places])
    first = np.unique(patient, return_index=True)[1]
    return Patients(features[places], patient, labels[places][first], len(names) - len(agreed))


def draw(labels: np.ndarray, train: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return random patients, drawn anew until each class has two.

    Args:
        labels: of all patients, (P,).
        train: indices of those to draw from.
        count: how many.
        seed: of the draw.

    """
    random = np.random.default_rng(seed)
    while True:
        found = np.sort(random.choice(train, count, replace=False))
        if np.bincount(labels[found], minlength=int(labels.max()) + 1).min() >= LEAST:
            return found


def arms(data: Patients, train: np.ndarray, test: np.ndarray, labeled: np.ndarray) -> dict[str, float]:
    """Return the balanced accuracy over the test patients of both ways, for the same labels.

    Args:
        data: the patients.
        train: indices of those that a training may see.
        test: indices of the others.
        labeled: indices of those whose label is known.

    """

    def images(patients: np.ndarray) -> np.ndarray:
        return np.flatnonzero(np.isin(data.patient, patients))

    names = np.arange(len(data.labels)).astype(str)
    bags = Fold(data.pooled, data.labels, names, train, test)
    each = Fold(data.features, data.labels[data.patient], names[data.patient], images(train), images(test))
    probabilities = each.evaluate(images(labeled))[1]
    mean = np.stack([probabilities[data.patient == one].mean(axis=0) for one in test])
    return {
        "pooled": bags.evaluate(labeled)[0]["balanced_accuracy"],
        "each": float(classification_metrics(mean, data.labels[test])["balanced_accuracy"]),
    }


def measure(data: Patients, budgets: Sequence[int] = BUDGETS) -> Iterator[dict[str, Any]]:
    """Yield the figures of every fold and budget.

    Args:
        data: the patients.
        budgets: numbers of labels of patients; a fold with fewer patients has none.

    """
    for repeat in range(REPEATS):
        splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=repeat)
        for number, (train, test) in enumerate(splitter.split(data.labels, data.labels)):
            for count in (count for count in budgets if count <= len(train)):
                labeled = draw(data.labels, train, count, seed=FOLDS * repeat + number)
                yield {"repeat": repeat, "fold": number, "labels": count, **arms(data, train, test, labeled)}
            print(repeat, number, flush=True)


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of paired differences over folds, and its 95 % interval.

    Folds share training items: the variance is corrected as by Nadeau and Bengio, Machine Learning 52 (2003).

    Args:
        differences: one for each fold.

    """
    count = len(differences)
    error = (differences.var(ddof=1) * (1 / count + 1 / (FOLDS - 1))) ** 0.5
    reach = float(student.ppf(0.975, count - 1)) * error
    return float(differences.mean()), float(differences.mean() - reach), float(differences.mean() + reach)


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return rows: balanced accuracy of patients, and the difference in points.

    Args:
        found: what :py:func:`measure` yields.

    """
    lines = [
        "| labels of patients | pooled features | each image, mean of probabilities | pooled minus each, points |",
        "|---|---|---|---|",
    ]
    for count in sorted({one["labels"] for one in found}):
        mine = [one for one in found if one["labels"] == count]
        both = np.array([[one["pooled"], one["each"]] for one in mine])
        value, low, high = (100 * value for value in interval(both[:, 0] - both[:, 1]))
        means = " | ".join(f"{mean:.3f}" for mean in both.mean(axis=0))
        lines.append(f"| {count} | {means} | {value:+.1f} ({low:+.1f} to {high:+.1f}) |")
    return lines


def main() -> None:
    """Print the table of one set, and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", choices=sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
    parser.add_argument("dataset_dir", help="its images, with the patient in the column group")
    parser.add_argument("--cache_dir", type=Path, required=True, help="folder for embeddings")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = patients_of(*embed(BUNDLES / options.bundle, options.dataset_dir, options.cache_dir))
    counts = np.bincount(data.patient)
    about = {
        "images": len(data.patient),
        "patients": len(counts),
        "left_out": data.left_out,
        "images_of_a_patient": [int(counts.min()), float(np.median(counts)), int(counts.max())],
    }
    found = list(measure(data))
    text = json.dumps({"machine": machine(), **about, "folds": found}, separators=(",", ":"))
    options.output.write_text(text + "\n", encoding="utf-8")
    print(f"\n{options.bundle}: {about}\n\n" + "\n".join(table(found)))


if __name__ == "__main__":
    main()
