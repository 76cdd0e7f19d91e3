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

"""Compare rules that choose labels, on frozen features: balanced accuracy above as many random labels, by budget."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold

from monai_weckd.bundle import BundleConfig
from monai_weckd.networks import EfficientNetLite
from monai_weckd.selection import SelectionContext, select_items
from monai_weckd.selection.projection import main_components

__all__ = ["RULES", "Fold", "compare_rules", "embed_depths", "load_features", "row_space_head"]

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
DEPTHS = (2, 4, 6)
FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
STAGES = 3
BUDGETS = ("1 a class", "2 a class", "2 %", "5 %", "10 %")
RANDOM_DRAWS = 3  # the mean of these is what a rule is compared with
NEIGHBORS, HEAT = 10, 1.0

Rule = Callable[[SelectionContext, int], np.ndarray]


def embed_depths(network: EfficientNetLite, images: torch.Tensor) -> torch.Tensor:
    """Return averages after stages 2, 4 and 6 and of the head's input, mean of four flips, (B, D).

    Args:
        network: in evaluation mode.
        images: preprocessed images, (B, C, H, W).

    """
    pooled: list[torch.Tensor] = []
    hooks = [
        network.stages[stage].register_forward_hook(lambda module, args, out: pooled.append(out.mean(dim=(2, 3))))
        for stage in DEPTHS
    ]
    views = []
    with torch.inference_mode():
        for flip in FLIPS:
            pooled.clear()
            last = network.head(network.stages(network.stem(torch.flip(images, flip)))).mean(dim=(2, 3))
            views.append(torch.cat([*pooled, last], dim=1))
    for hook in hooks:
        hook.remove()
    return torch.stack(views).mean(dim=0)


def load_features(bundle: Path, dataset_dir: str, cache_dir: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features of all items, (N, D), labels, (N,), and group names, (N,), from the cache or by ImageNet weights.

    Args:
        bundle: its folder, for preprocessing.
        dataset_dir: its images.
        cache_dir: folder of the cache, one file for each bundle.

    """
    file = cache_dir / f"{bundle.name}.npz"
    if not file.exists():
        config = BundleConfig(
            bundle, overlays=["scratch.json", "pretrained.json"], changes={"dataset_dir": dataset_dir}
        )
        items = config.value("datalist").items
        prepare, network = config.value("train#preprocessing"), config.value("network_def").eval()
        rows = []
        for start in range(0, len(items), 32):
            images = [torch.as_tensor(prepare(dict(item))["image"]) for item in items[start : start + 32]]
            rows.append(embed_depths(network, torch.stack(images)))
        labels, groups = ([item[key] for item in items] for key in ("label", "group"))
        cache_dir.mkdir(parents=True, exist_ok=True)
        np.savez(file, features=torch.cat(rows).numpy(), labels=labels, groups=groups)
    with np.load(file) as content:
        return content["features"], content["labels"], content["groups"]


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Fold:
    """A division of the items, their standardized features, and what a head needs of them.

    Args:
        features: standardized on the training items, (N, D).
        products: inner products of the features, (N, N).
        labels: (N,).
        groups: names, (N,).
        train: indices of the training items.
        test: indices of the others.

    """

    features: np.ndarray
    products: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    train: np.ndarray
    test: np.ndarray


def divide(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, *, draw: int) -> Iterator[Fold]:
    """Yield five grouped and stratified folds.

    Args:
        features: (N, D).
        labels: (N,).
        groups: (N,).
        draw: seed of the division.

    """
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=draw)
    for train, test in splitter.split(labels, labels, groups):
        deviation = features[train].std(axis=0)
        rows = (features - features[train].mean(axis=0)) / np.where(deviation > 0, deviation, 1)
        yield Fold(rows, (rows @ rows.T).astype(np.float64), labels, groups, train, test)


def row_space_head(products: np.ndarray, labels: np.ndarray, labeled: np.ndarray, classes: int) -> np.ndarray:
    """Return probabilities of all items, (N, C), by class-balanced logistic regression with C = 0.01.

    The weights of a penalized linear model lie in the span of the labeled rows, so n coordinates in place of D features
    give the same model.

    Args:
        products: inner products of the features, (N, N).
        labels: (N,).
        labeled: indices of the labeled items, (n,).
        classes: number of classes.

    """
    found = np.zeros((len(labels), classes))
    seen = np.unique(labels[labeled])
    if len(seen) == 1:
        found[:, seen] = 1
        return found
    values, vectors = np.linalg.eigh(products[np.ix_(labeled, labeled)])
    kept = values > values[-1] * 1e-6
    rows = products[:, labeled] @ (vectors[:, kept] / np.sqrt(values[kept]))
    head = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000).fit(rows[labeled], labels[labeled])
    found[:, head.classes_] = head.predict_proba(rows)
    return found


def _greedy(similarity: np.ndarray, context: SelectionContext, count: int) -> list[int]:
    """Choose items that add most to the sum of all items' similarities to the nearest, new groups first."""
    picked: list[int] = []
    cover = similarity[context.labeled].max(axis=0, initial=0)
    while len(picked) < count:
        allowed = _allowed(context, picked)
        gains = np.array([np.maximum(similarity[item] - cover, 0).sum() for item in allowed])
        picked.append(int(allowed[gains.argmax()]))
        cover = np.maximum(cover, similarity[picked[-1]])
    return picked


def _allowed(context: SelectionContext, picked: Sequence[int]) -> np.ndarray:
    groups = np.asarray(context.groups)
    left = np.setdiff1d(context.candidates, picked)
    used = [*np.flatnonzero(context.labeled), *picked]
    fresh = left[~np.isin(groups[left], groups[used])]
    return fresh if len(fresh) else left


def graph_coverage(context: SelectionContext, count: int) -> np.ndarray:
    """Choose by facility location on one and two steps of heat on a graph of neighbors.

    After the abstract of arXiv 2606.22002: the two-term kernel is t A + t^2 / 2 A^2, A the normalized adjacency of 10
    nearest neighbors and t = 1. The paper also balances classes by their labels, which no rule here may see.
    """
    points = main_components(context.features, np.arange(len(context.features)))
    near = np.argpartition(-(points @ points.T), NEIGHBORS, axis=1)[:, : NEIGHBORS + 1]  # each with itself
    linked = np.zeros((len(points), len(points)), dtype=np.float32)
    linked[np.arange(len(points))[:, None], near] = 1
    linked = np.maximum(linked, linked.T)
    np.fill_diagonal(linked, 0)
    degree = np.sqrt(linked.sum(axis=1))
    steps = linked / degree / degree[:, None]
    kernel = HEAT * steps + HEAT**2 / 2 * (steps @ steps) + np.eye(len(points), dtype=np.float32)
    return np.array(_greedy(kernel, context, count))


def facility_then_farthest(context: SelectionContext, count: int) -> np.ndarray:
    """Choose half of the items by facility location on cosines, then half by farthest first (RepDiv, arXiv 2508.03441).

    Args:
        context: what a rule may use.
        count: how many.

    """
    points = main_components(context.features, np.arange(len(context.features)))
    similarity = points @ points.T
    picked = _greedy((1 + similarity) / 2, context, (count + 1) // 2)
    while len(picked) < count:
        allowed = _allowed(context, picked)
        nearest = similarity[:, [*np.flatnonzero(context.labeled), *picked]].max(axis=1)
        picked.append(int(allowed[nearest[allowed].argmin()]))
    return np.array(picked)


def _first(strategy: str, then: str) -> Rule:
    return lambda context, count: select_items(
        strategy if context.probabilities is None else then, context, count=count
    )


RULES: dict[str, Rule] = {
    "herding": _first("herding", "herding"),
    "coverage alone (MaxHerding)": lambda context, count: select_items(
        "herding", replace(context, probabilities=None), count=count
    ),
    "graph coverage": graph_coverage,
    "facility location, then farthest": facility_then_farthest,
    "typical, then margin": _first("typical", "margin"),
    "diverse": _first("diverse", "diverse"),
    "typical, then badge": _first("typical", "badge"),
    "typical": _first("typical", "typical"),
    "random": _first("random", "random"),
}


def grow(rule: Rule, fold: Fold, *, count: int, seed: int) -> list[float]:
    """Return the balanced accuracy on the test items after each stage.

    Args:
        rule: chooses the labels.
        fold: the division.
        count: labels in each stage.
        seed: of the rule.

    """
    classes = int(fold.labels.max()) + 1
    names = [str(name) for name in fold.groups[fold.train]]
    labeled, probabilities, found = np.zeros(len(fold.train), dtype=bool), None, []
    features, everything = fold.features[fold.train], np.ones(len(fold.train), dtype=bool)
    for stage in range(1, STAGES + 1):
        chosen = rule(SelectionContext(features, probabilities, names, labeled, everything, seed, stage), count)
        labeled = labeled | np.isin(np.arange(len(labeled)), chosen)
        predicted = row_space_head(fold.products, fold.labels, fold.train[labeled], classes)
        probabilities = predicted[fold.train].astype(np.float32)
        found.append(balanced_accuracy_score(fold.labels[fold.test], predicted[fold.test].argmax(axis=1)))
    return found


def stage_size(budget: str, train: int, classes: int) -> int:
    """Return the number of labels of a stage.

    Args:
        budget: such as "2 a class" or "5 %".
        train: number of training items.
        classes: number of classes.

    """
    number, unit = budget.split(" ", 1)
    return int(number) * classes if unit == "a class" else max(1, round(train * int(number) / 100))


def compare_rules(
    data: tuple[np.ndarray, np.ndarray, np.ndarray], rules: Mapping[str, Rule], budget: str, *, draws: int
) -> dict[str, np.ndarray]:
    """Return balanced accuracies of each rule, (draws x 5 folds, stages); "random" is a mean of three random choices.

    Args:
        data: features, labels and groups.
        rules: by name.
        budget: labels of a stage, as :py:func:`stage_size` reads it.
        draws: number of divisions into folds.

    """
    found: dict[str, list[list[float]]] = {name: [] for name in rules}
    for draw in range(draws):
        for fold in divide(*data, draw=draw):
            count = stage_size(budget, len(fold.train), int(fold.labels.max()) + 1)
            for name, rule in rules.items():
                seeds = range(draw, draw + 1000 * RANDOM_DRAWS, 1000) if name == "random" else [draw]
                runs = [grow(rule, fold, count=count, seed=seed) for seed in seeds]
                found[name].append(np.mean(runs, axis=0).tolist())
    return {name: np.array(values) for name, values in found.items()}


def table(found: Mapping[str, np.ndarray]) -> list[str]:
    """Return rows with the mean and standard error, in points, of differences to random labels after each stage.

    The last column is the mean over the stages.

    Args:
        found: what :py:func:`compare_rules` returned.

    """
    lines = []
    for name, values in found.items():
        if name == "random":
            cells = [f"{value:.3f}" for value in [*values.mean(axis=0), values.mean()]]
        else:
            gains = 100 * (values - found["random"])
            gains = np.column_stack([gains, gains.mean(axis=1)])
            errors = gains.std(axis=0, ddof=1) / len(gains) ** 0.5
            cells = [f"{mean:+.1f} ± {error:.1f}" for mean, error in zip(gains.mean(axis=0), errors, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print a table for each budget, and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", choices=sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
    parser.add_argument("dataset_dir", help="its images")
    parser.add_argument("--cache_dir", type=Path, required=True, help="where features are kept")
    parser.add_argument("--budgets", nargs="+", choices=BUDGETS, default=BUDGETS)
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES), help="compared with random")
    parser.add_argument("--draws", type=int, default=4, help="divisions into five folds (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON with all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_features(BUNDLES / options.bundle, options.dataset_dir, options.cache_dir)
    rules = {name: RULES[name] for name in dict.fromkeys([*options.rules, "random"])}
    figures = {}
    for budget in options.budgets:
        found = compare_rules(data, rules, budget, draws=options.draws)
        figures[budget] = {name: values.tolist() for name, values in found.items()}
        print(f"\n{options.bundle}, {budget} in each stage, {options.draws} x 5 folds\n")
        print(
            "\n".join(["| rule | stage 1 | stage 2 | stage 3 | mean |", "|---|---|---|---|---|", *table(found)]),
            flush=True,
        )
    if options.output is not None:
        options.output.write_text(json.dumps(figures) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
