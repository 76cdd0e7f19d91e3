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

"""See how often `compare` tells equal methods apart: five in a hundred is what its 95 % intervals promise."""

from __future__ import annotations

import argparse

import numpy as np

from monai_weckd.compare.statistics import RunPredictions, arm_difference

__all__ = ["false_alarms", "simulate"]

# what is compared: folds, repeats, seeds, items in a group, and how much one training differs from the next
SETTINGS = [
    (5, 1, 1, 1, 0.0),
    (5, 1, 1, 1, 0.1),
    (5, 1, 1, 1, 0.2),
    (5, 1, 1, 1, 0.4),
    (5, 1, 3, 1, 0.2),
    (5, 2, 1, 5, 0.2),
    (3, 1, 1, 1, 0.4),
]


def simulate(
    rng: np.random.Generator, *, folds: int, repeats: int, seeds: int, group_size: int, spread: float, items: int = 300
) -> list[list[RunPredictions]]:
    """Return the predictions of two equal methods; groups vary in difficulty, and trainings in quality."""
    labels = rng.integers(0, 2, items)
    ease = np.repeat(rng.normal(size=items // group_size), group_size)
    arms: list[list[RunPredictions]] = [[], []]
    for repeat in range(repeats):
        fold_of = np.repeat(rng.permutation(items // group_size) % folds, group_size)
        for fold in range(folds):
            index = np.flatnonzero(fold_of == fold)
            for seed in range(seeds):
                for arm in arms:
                    logits = 1 + spread * rng.normal() + ease[index] + rng.normal(size=len(index))
                    right = 1 / (1 + np.exp(-logits))
                    scores = np.where(labels[index] == 1, right, 1 - right)
                    ids = [str(i) for i in index]
                    arm.append(
                        RunPredictions(repeat, fold, seed, ids, labels[index], np.stack([1 - scores, scores], 1))
                    )
    return arms


def false_alarms(rounds: int, **options: float) -> dict[str, float]:
    """Return, by metric, how often the interval of two equal methods misses zero."""
    rng = np.random.default_rng(0)
    missed = dict.fromkeys(("balanced_accuracy", "macro_auc"), 0)
    groups = {str(i): str(i // int(options["group_size"])) for i in range(300)}
    for _ in range(rounds):
        ours, theirs = simulate(rng, **options)  # type: ignore[arg-type]
        found = arm_difference(ours, theirs, groups=groups, num_resamples=400, seed=int(rng.integers(2**31)))
        for name in missed:
            lower, upper = found[name].interval or (0.0, 0.0)
            missed[name] += not lower <= 0 <= upper
    return {name: count / rounds for name, count in missed.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="comparisons for each line (default: %(default)s)")
    rounds = parser.parse_args().rounds
    print("| folds | repeats | seeds | items in a group | spread of trainings | balanced accuracy | macro AUC |")
    print("|---|---|---|---|---|---|---|")
    for folds, repeats, seeds, group_size, spread in SETTINGS:
        options = {"folds": folds, "repeats": repeats, "seeds": seeds, "group_size": group_size, "spread": spread}
        rates = false_alarms(rounds, **options)
        cells = [*options.values(), *(f"{rate:.1%}" for rate in rates.values())]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
