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

"""Measure the default, solved heads on chosen labels, against the same head on random ones, from few labels to all."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.harness import digits, machine
from benchmarks.selection import stage_size
from monai_weckd import PlanSettings
from monai_weckd.annotation.parts import SharedParts
from monai_weckd.bundle import BundleConfig
from monai_weckd.engines.calibration import fit_temperature
from monai_weckd.engines.estimate import estimate_accuracy, represented
from monai_weckd.metrics import classification_metrics
from monai_weckd.metrics.classification import reliability
from monai_weckd.networks import SolvedHead, StandardizedLinear, solve_head
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.selection import SelectionContext, select_items

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
BUDGETS = ("1 a class", "2 a class", "2 %", "5 %", "10 %")
RULES = ("herding", "random")
STAGES = 3
EACH = 5  # labels of every class where nothing else is labeled
WHOLE = 2  # draws in which all training items are labeled, too; with thousands of labels this takes longest


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Fold:
    """Embeddings and labels of all items, and a division of them.

    Args:
        features: (N, D).
        labels: (N,).
        groups: (N,).
        train: indices of the training items.
        test: indices of the others.
        bounded: whether the bundle's linear layer bounds standardized features.

    """

    features: torch.Tensor
    labels: np.ndarray
    groups: np.ndarray
    train: np.ndarray
    test: np.ndarray
    bounded: bool = True

    @cached_property
    def inputs(self) -> torch.Tensor:
        """The input of the bundle's linear layer, (N, D)."""
        train, layer = self.features[self.train].double(), StandardizedLinear(self.features.shape[1], 1)
        layer.fit(train.mean(dim=0), train.std(dim=0, correction=0))
        if self.bounded:
            return layer.standardize(self.features)
        return (self.features - layer.mean) * layer.scale

    def evaluate(self, labeled: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        """Solve a head as :py:class:`monai_weckd.engines.HeadSolver` does.

        Args:
            labeled: indices of the labeled items.

        Returns:
            Balanced accuracy and calibration error on the test items, :py:func:`least_error`, the balanced accuracy
            that cross-validation tells, and ``predicted``, a digit for the class of each test item; and the
            probabilities of all items, (N, C).

        """
        head, target = self.solve(labeled), torch.from_numpy(self.labels[labeled])
        known = ~head.out_of_fold.isnan().any(dim=1)
        held_out = head.out_of_fold[known].clamp(min=-1e4)
        temperature = fit_temperature(held_out, target[known]) if known.any() else 1.0
        logits = (self.inputs.double() @ head.weight.T + head.bias) / temperature
        probabilities = torch.softmax(logits, dim=1).numpy()
        tested = classification_metrics(probabilities[self.test], self.labels[self.test])
        figures: dict[str, Any] = {name: float(tested[name]) for name in ("balanced_accuracy", "ece")}
        figures["least_ece"] = least_error(probabilities[self.test].max(axis=1))
        figures["predicted"] = digits(probabilities[self.test].argmax(axis=1))
        others = np.setdiff1d(self.train, labeled)
        if known.all() and len(others) >= len(labeled):
            names = self.groups[others].tolist()
            unseen = head.unseen_logits(self.inputs[others], names)
            weights = 1 + represented(self.inputs[labeled], self.inputs[others])
            found = estimate_accuracy(held_out, target, self.groups[labeled].tolist(), unseen, names, weights=weights)
            figures["estimate"] = found["balanced_accuracy"]["value"]
            figures["low"], figures["high"] = found["balanced_accuracy"]["interval"]
            figures["error"] = self.error(probabilities)
        if known.all():
            told = classification_metrics(torch.softmax(held_out / temperature, dim=1).numpy(), target.numpy())
            figures["cross_validated"] = float(told["balanced_accuracy"])
        return figures, probabilities

    def without_bound(self, labeled: np.ndarray) -> float:
        """Return the balanced accuracy of a head on unbounded features.

        Args:
            labeled: indices of the labeled items.

        """
        return float(replace(self, bounded=False).evaluate(labeled)[0]["balanced_accuracy"])

    def error(self, probabilities: np.ndarray) -> float:
        """Return the standard error of the balanced accuracy on the test items, a bootstrap over their groups.

        Args:
            probabilities: of all items, (N, C).

        """
        labels, right = self.labels[self.test], probabilities.argmax(axis=1)[self.test] == self.labels[self.test]
        names, group = np.unique(self.groups[self.test], return_inverse=True)
        draws = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=200)
        of_class = labels[:, None] == np.arange(int(self.labels.max()) + 1)
        counts = draws[:, group]
        with np.errstate(invalid="ignore"):  # a class may be missing in a draw
            recalls = (counts @ (of_class * right[:, None])) / (counts @ of_class)
        return float(np.nanmean(recalls, axis=1).std())

    def solve(self, labeled: np.ndarray) -> SolvedHead:
        """Return the head for some labels.

        Args:
            labeled: indices of the labeled items.

        """
        nothing = torch.zeros(self.inputs.shape[1])
        return solve_head(
            self.inputs[labeled],
            torch.from_numpy(self.labels[labeled]),
            self.groups[labeled].tolist(),
            num_classes=int(self.labels.max()) + 1,
            mean=nothing,
            scale=nothing + 1,
        )

    def chain(
        self, rule: str, count: int, seed: int, *, stages: int = STAGES
    ) -> Iterator[tuple[np.ndarray, dict[str, Any], np.ndarray]]:
        """Yield the labeled items after each stage, and what :py:meth:`evaluate` returns for them.

        Args:
            rule: chooses the labels.
            count: labels of a stage.
            seed: of the rule.
            stages: number of stages.

        """
        features, groups = self.features[self.train].numpy(), self.groups[self.train].tolist()
        labeled, probabilities = np.zeros(len(self.train), dtype=bool), None
        for stage in range(1, stages + 1):
            context = SelectionContext(features, probabilities, groups, labeled, np.ones_like(labeled), seed, stage)
            labeled = labeled | np.isin(np.arange(len(labeled)), select_items(rule, context, count=count))
            figures, everywhere = self.evaluate(self.train[labeled])
            probabilities = everywhere[self.train]
            yield self.train[labeled], figures, everywhere

    def balanced(self, count: int, seed: int) -> Iterator[dict[str, Any]]:
        """Yield the figures of random labels of which each class has as many, which no rule can draw without labels.

        Args:
            count: labels of a stage.
            seed: of the draw.

        """
        labels = self.labels[self.train]
        order = np.random.default_rng(seed).permutation(len(labels))
        place = np.empty(len(labels), dtype=int)
        for label in np.unique(labels):
            of_class = order[labels[order] == label]
            place[of_class] = np.arange(len(of_class))
        in_turns = order[np.argsort(place[order], kind="stable")]
        for stage in range(1, STAGES + 1):
            yield self.evaluate(np.sort(self.train[in_turns[: stage * count]]))[0]

    def some_of_each_class(self, seed: int) -> np.ndarray:
        """Return indices of five random training items of every class.

        Args:
            seed: of the draw.

        """
        random = np.random.default_rng(seed)
        of_class = [self.train[self.labels[self.train] == label] for label in range(int(self.labels.max()) + 1)]
        return np.sort(np.concatenate([random.choice(items, EACH, replace=False) for items in of_class]))


def least_error(confidence: np.ndarray) -> float:
    """Return the calibration error that is expected of perfectly calibrated predictions: bins of few items are noisy.

    Args:
        confidence: of each test item, (N,).

    """
    draws = np.random.default_rng(0).random((50, len(confidence))) < confidence
    bins = [reliability(confidence, right, num_bins=15) for right in draws]
    errors = [sum(one.count * abs(one.accuracy - one.confidence) for one in some) for some in bins]
    return float(np.mean(errors)) / len(confidence)


def embed(
    bundle: Path, dataset_dir: str, cache_dir: Path | None = None, **changes: Any
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Return the bundle's embeddings of all items, (N, D), their labels, (N,), and their groups, (N,).

    Args:
        bundle: its folder.
        dataset_dir: its images.
        cache_dir: folder where the embeddings are kept, default None: in memory.
        changes: further values to set in the configuration, by key.

    """
    changes |= {"dataset_dir": dataset_dir, "cache_dir": None if cache_dir is None else str(cache_dir)}
    config = BundleConfig(bundle, changes=changes)
    datalist = config.value("datalist")
    items = [dict(item) for item in datalist.items]
    parts = SharedParts(config, LabelKind(datalist.classes), PlanSettings())
    features = parts.embeddings(parts.dataset(items))
    assert features is not None, "the bundle does not freeze its backbone"
    return features, np.array([item["label"] for item in items]), np.array([item["group"] for item in items])


def measure(
    data: tuple[torch.Tensor, np.ndarray, np.ndarray],
    draws: int,
    budgets: Sequence[str],
    *,
    unbounded: bool = False,
    balanced: bool = False,
) -> list[dict[str, Any]]:
    """Return the figures of every fold, with ``test``, the places of its test items.

    Args:
        data: features, labels and groups.
        draws: number of divisions into five grouped and stratified folds.
        budgets: labels of a stage, as :py:func:`benchmarks.selection.stage_size` reads them.
        unbounded: whether to evaluate the labels without the bound on features, too; it takes twice as long.
        balanced: whether to evaluate :py:meth:`Fold.balanced` labels, too.

    """
    features, labels, groups = data
    found = []
    for draw in range(draws):
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=draw)
        for number, (train, test) in enumerate(splitter.split(labels, labels, groups)):
            fold = Fold(features, labels, groups, train, test)
            figures: dict[str, Any] = {"draw": draw, "fold": number, "test": test.tolist()}
            for budget in budgets:
                count = stage_size(budget, len(train), int(labels.max()) + 1)
                stages = {rule: list(fold.chain(rule, count, draw)) for rule in RULES}
                figures[budget] = {rule: [one for _, one, _ in chain] for rule, chain in stages.items()}
                if balanced:
                    figures[budget]["balanced"] = list(fold.balanced(count, draw))
                if unbounded:
                    for labeled, one, _ in (stage for chain in stages.values() for stage in chain):
                        one["unbounded"] = fold.without_bound(labeled)
            fixed = {"5 of each class": fold.some_of_each_class(5 * draw + number)}
            for name, labeled in (fixed | ({"all": train} if draw < WHOLE else {})).items():
                figures[name] = fold.evaluate(labeled)[0]
                if unbounded:
                    figures[name]["unbounded"] = fold.without_bound(labeled)
            found.append(figures)
            print(f"{draw} {number}", flush=True)
    return found


def _mean(values: Iterable[float], sign: str = "") -> str:
    points = 100 * np.array(list(values))
    return f"{points.mean():{sign}.1f} ± {points.std(ddof=1) / len(points) ** 0.5:.1f}"


def table(folds: Sequence[dict[str, Any]]) -> list[str]:
    """Return rows: means and standard errors over folds, in points.

    Args:
        folds: what :py:func:`measure` returned.

    """
    lines = [
        "| labels of a stage | after | chosen | bounded minus not | random | bounded minus not | chosen minus random "
        "| chosen minus all | ECE, of a calibrated model | cross-validation minus test | estimate minus test "
        "| its interval holds test | with the error of test |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    whole = [fold for fold in folds if "all" in fold]
    everything = [fold["all"]["balanced_accuracy"] for fold in whole]
    for budget in (budget for budget in BUDGETS if budget in folds[0]):
        for stage in range(STAGES):
            chosen, random = ([fold[budget][rule][stage] for fold in folds] for rule in RULES)
            score, other = ([figures["balanced_accuracy"] for figures in found] for found in (chosen, random))
            told, guessed = (
                [one[key] - one["balanced_accuracy"] for one in chosen if key in one]
                for key in ("cross_validated", "estimate")
            )
            errors = [[one[key] for one in chosen if key in one] for key in ("ece", "least_ece")]
            told_by = [one for one in chosen if "low" in one]
            covered = [one["low"] <= one["balanced_accuracy"] <= one["high"] for one in told_by]
            cells = [
                _mean(score),
                _gain(chosen),
                _mean(other),
                _gain(random),
                _mean(np.subtract(score, other), "+"),
                _mean(
                    np.subtract([fold[budget]["herding"][stage]["balanced_accuracy"] for fold in whole], everything),
                    "+",
                ),
                ", ".join(_mean(values) for values in errors if len(values) > 1),
                _mean(told, "+") if len(told) > 1 else "",
                _mean(guessed, "+") if len(guessed) > 1 else "",
                f"{sum(covered)} of {len(covered)}",
                f"{sum(map(_covers, told_by))} of {len(told_by)}",
            ]
            lines.append(f"| {budget} | stage {stage + 1} | {' | '.join(cells)} |")
    for name in ("5 of each class", "all"):
        found = [fold[name] for fold in folds if name in fold]
        score, calibration = (_mean(one[key] for one in found) for key in ("balanced_accuracy", "ece"))
        lines.append(f"| {name}, nothing else | | | {_gain(found)} | {score} | | | | {calibration} | | | | |")
    return lines


def _covers(one: dict[str, float]) -> bool:
    """Return whether an interval holds the test figure, each widened by the error of the other."""
    side = "high" if one["balanced_accuracy"] > one["estimate"] else "low"
    reach = np.hypot(one[side] - one["estimate"], 1.96 * one["error"])
    return bool(abs(one["balanced_accuracy"] - one["estimate"]) <= reach)


def _gain(found: Iterable[dict[str, float]]) -> str:
    gains = [one["balanced_accuracy"] - one["unbounded"] for one in found if "unbounded" in one]
    return _mean(gains, "+") if gains else ""


def main() -> None:
    """Print the table of one set, and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", choices=sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
    parser.add_argument("dataset_dir", help="its images")
    parser.add_argument("--cache_dir", type=Path, required=True, help="folder for embeddings")
    parser.add_argument("--draws", type=int, default=4, help="divisions into five folds (default: %(default)s)")
    parser.add_argument("--budgets", nargs="+", choices=BUDGETS, default=BUDGETS, help="labels of a stage")
    parser.add_argument("--unbounded", action="store_true", help="evaluate without the bound on features, too")
    parser.add_argument("--balanced", action="store_true", help="evaluate random labels of equal classes, too")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = embed(BUNDLES / options.bundle, options.dataset_dir, options.cache_dir)
    folds = measure(data, options.draws, options.budgets, unbounded=options.unbounded, balanced=options.balanced)
    options.output.write_text(
        json.dumps({"machine": machine(), "folds": folds}, separators=(",", ":")) + "\n", encoding="utf-8"
    )
    print(f"\n{options.bundle}, {options.draws} x 5 folds\n\n" + "\n".join(table(folds)))


if __name__ == "__main__":
    main()
