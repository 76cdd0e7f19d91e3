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


"""Measure networks that three sites train together: a chain across them, averaging, each site alone, pooled images."""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.few_labels import BUNDLES
from benchmarks.harness import digits, machine
from benchmarks.sites import SITES, divide
from monai_weckd.bundle.config import BundleConfig
from monai_weckd.cli.options import parse_changes
from monai_weckd.compare.statistics import RunPredictions, arm_difference
from monai_weckd.data import load_datalist
from monai_weckd.fl.average_party import AverageParty
from monai_weckd.fl.chain_party import ChainParty
from monai_weckd.fl.chain_rounds import StageAnswer, Student, run_over_sites
from monai_weckd.fl.exact import Sums
from monai_weckd.fl.exact_party import ExactParty
from monai_weckd.fl.exact_rounds import SiteAnswer, solve_over_sites
from monai_weckd.metrics import classification_metrics
from monai_weckd.predict.model import PredictionBundle
from monai_weckd.utils.files import write_atomically

HEAD = ", exact head"
WITH_HEAD = ("chain: all", "averaging", "pooled")
FROZEN = f"frozen{HEAD}"  # of the bundle's default, without an overlay
# what a chain with all teachers lacks
ABLATED = {
    "chain: all, plain loss, full rate": {"balance", "rate"},
    "chain: all, plain loss": {"balance"},
    "chain: all, full rate": {"rate"},
    "chain: all, fading teachers": {"teachers"},
}
ARMS = (
    *("chain: last", *ABLATED, "chain: all", "chain: there and back", "averaging", "best site", "mean site", "pooled"),
    *(f"{arm}{HEAD}" for arm in WITH_HEAD),
    FROZEN,
)
DIVISIONS = ("even", "skewed", "devices")
SIDE = 128  # pixels of the copies of the images; the networks see 64
ROUNDS = 4


def device(image: Image.Image, number: int) -> Image.Image:
    """Return an image as a stand-in for another device shows it: as it is, darker and redder, or brighter and blurred.

    Args:
        image: RGB, or gray, whose second device has another contrast.
        number: of the device.

    """
    if number == 1 and image.mode == "L":
        return image.point(lambda value: 255 * (value / 255) ** 1.5)
    if number == 1:
        red, green, blue = ImageEnhance.Brightness(image).enhance(0.7).split()
        return Image.merge("RGB", (red.point(lambda value: 1.2 * value), green, blue.point(lambda value: 0.8 * value)))
    if number == 2:
        return ImageEnhance.Brightness(image).enhance(1.3).filter(ImageFilter.GaussianBlur(SIDE / 64))
    return image


class AblatedParty(ChainParty):
    """A site of a chain with all teachers that lacks a part of what counters forgetting.

    Args:
        settings: see :py:class:`~monai_weckd.fl.chain_party.ChainParty`.
        lacks: a value of ``ABLATED``.

    """

    def __init__(self, settings: Mapping[str, Any], lacks: Set[str] = frozenset()) -> None:
        super().__init__(settings)
        self._lacks = lacks

    def _balance(self, config: BundleConfig) -> None:
        if "balance" not in self._lacks:
            super()._balance(config)

    def _gentle(self, config: BundleConfig) -> dict[str, Any]:
        kept = {"rate": "learning_rate", "teachers": "distillation_weight_end"}
        left_out = {key for part, key in kept.items() if part in self._lacks}
        return {key: value for key, value in super()._gentle(config).items() if key not in left_out}


class Trial:
    """The sites of one fold and division, in folders.

    Args:
        bundle: its folder.
        folder: for the images and models of all sites.
        epochs: of a stage; each other arm has as many steps behind its model as the chain.
        seed: of the training.
        overlays: of the training.
        changes: of the training, by key.

    """

    def __init__(
        self,
        bundle: Path,
        folder: Path,
        epochs: int,
        seed: int,
        *,
        overlays: Sequence[str] = ("scratch.json",),
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        self.bundle, self.folder, self.epochs, self.seed = bundle, folder, epochs, seed
        self.overlays, self.changes = list(overlays), dict(changes or {})
        self.mode = "RGB" if BundleConfig(bundle)["channels"] == 3 else "L"
        self.classes: tuple[str, ...] = ()
        self.test: dict[bool, tuple[torch.Tensor, np.ndarray]] = {}
        self.bytes = 0

    def copy(self, items: Sequence[Mapping[str, Any]], name: str, devices: np.ndarray) -> None:
        """Write the images of a site.

        Args:
            items: of the data list.
            name: of the folder.
            devices: number of the device of each, (N,).

        """
        target = self.folder / name
        target.mkdir(parents=True)
        with (target / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(("file", "label", "group", "split"))
            for number, (item, which) in enumerate(zip(items, devices, strict=True)):
                image = Image.open(item["image"]).convert(self.mode).resize((SIDE, SIDE), Image.Resampling.BOX)
                device(image, int(which)).save(target / f"{number}.png", compress_level=1)
                table.writerow((f"{number}.png", self.classes[item["label"]], item["group"], "train"))

    def settings(self, site: str, arm: str, **changes: Any) -> dict[str, Any]:
        """Return the settings of a party.

        Args:
            site: folder of its images.
            arm: name of the folder for its results.
            changes: values to set in the configuration.

        """
        given = {"seed": self.seed, "val_fraction": 0, "max_epochs": self.epochs, **self.changes, **changes}
        output = self.folder / arm / site
        shutil.rmtree(output, ignore_errors=True)
        return {
            **{"bundle": str(self.bundle), "dataset_dir": str(self.folder / site), "output_dir": str(output)},
            **{"classes": self.classes, "overlays": self.overlays, "changes": given},
        }

    def score(self, weights: Mapping[str, torch.Tensor], *, frozen: bool = False) -> dict[str, Any]:
        """Return the figures of a network on the test items.

        Args:
            weights: its ``state_dict``.
            frozen: whether it is the bundle's default, whose images are prepared otherwise.

        """
        path = self.folder / "scored.pt"
        torch.save(dict(weights), path)
        shape = {
            name: value for name, value in self.changes.items() if name.startswith(("network_def", "spatial_size"))
        }
        given = {} if frozen else {"overlays": [f"inference_{self.overlays[-1]}"], "changes": shape}
        model = PredictionBundle(self.bundle, path, **given)
        if frozen not in self.test:
            items = load_datalist(self.folder / "test").items
            images = torch.stack([torch.as_tensor(model.load(item["image"])) for item in items])
            self.test[frozen] = images, np.array([item["label"] for item in items])
        images, labels = self.test[frozen]
        probabilities = np.concatenate([model.predict(part) for part in images.split(64)])
        tested = classification_metrics(probabilities, labels)
        predicted = probabilities.argmax(axis=1)
        recalls = [float((predicted[labels == c] == c).mean()) for c in range(len(self.classes))]
        return {
            **{"balanced_accuracy": float(tested["balanced_accuracy"]), "recalls": recalls},
            **{"ece": float(tested["ece"]), "predicted": digits(predicted)},
        }

    def chain(
        self, sites: Sequence[str], arm: str, *, lacks: Set[str] = frozenset(), **options: Any
    ) -> dict[str, torch.Tensor]:
        """Return the weights of a chain over sites.

        Args:
            sites: names of the folders.
            arm: name of the arm.
            lacks: a value of ``ABLATED``, default: nothing is left out.
            options: see :py:func:`run_over_sites`.

        """
        teachers = {"teachers": options.get("teachers", "last")}
        epochs = (
            self.epochs * SITES // 5 if options.get("there_and_back") else self.epochs
        )  # five stages in place of three
        parties: dict[str, ChainParty] = {}

        def ask(students: Sequence[Student], site: str, visit: int, again: bool) -> StageAnswer:
            settings = {**self.settings(site, arm, max_epochs=epochs), **teachers}
            party = parties.setdefault(site, AblatedParty(settings, lacks))
            self.bytes += sum(value.nbytes for student in students for value in student.weights.values())
            answer = party.answer(students, visit=visit, again=again)
            self.bytes += sum(value.nbytes for value in answer.weights.values())
            return answer

        return run_over_sites(ask, sites, **options)[0]

    def average(self, sites: Sequence[str], arm: str) -> dict[str, torch.Tensor]:
        """Return the weights of federated averaging.

        Args:
            sites: names of the folders.
            arm: name of the arm.

        """
        changes = {"max_epochs": len(sites) * self.epochs}
        parties = [AverageParty({**self.settings(site, arm, **changes), "rounds": ROUNDS}) for site in sites]
        weights: dict[str, torch.Tensor] = {}
        for _ in range(ROUNDS):
            answers = [party.answer(weights) for party in parties]
            steps = sum(answer.steps for answer in answers)
            weights = {
                name: sum(answer.steps / steps * answer.weights[name].double() for answer in answers)
                for name in answers[0].weights
            }
            self.bytes += 2 * sum(value.nbytes for answer in answers for value in answer.weights.values())
        return weights

    def exact_head(
        self, weights: Mapping[str, torch.Tensor] | None, sites: Sequence[str], arm: str
    ) -> Mapping[str, Any]:
        """Return the weights of a network with the head that the sites solve for the labels of all.

        Args:
            weights: those of the network, None for the bundle's default, which is frozen.
            sites: names of the folders.
            arm: name of the arm.

        """
        own = {"overlays": [], "changes": {}} if weights is None else {}
        parties = {site: ExactParty({**self.settings(site, arm), **own}, weights and dict(weights)) for site in sites}

        def ask(task: str, totals: Mapping[str, Sums], names: Sequence[str]) -> dict[str, SiteAnswer]:
            answers = {site: parties[site].answer(task, totals) for site in names}
            self.bytes += sum(value.nbytes for answer in answers.values() for value in answer.sums.values())
            return answers

        head, _ = solve_over_sites(ask, sites)
        bundle = parties[sites[0]].bundle
        return torch.load(bundle.write(head, self.folder / arm / "joint"), weights_only=True)

    def alone(self, site: str, arm: str) -> dict[str, torch.Tensor]:
        """Return the weights of one site, or of pooled images.

        Args:
            site: name of the folder.
            arm: name of the arm.

        """
        return ChainParty(self.settings(site, arm, max_epochs=SITES * self.epochs)).answer([]).weights


def arms(trial: Trial) -> dict[str, Callable[[str], Mapping[str, torch.Tensor]]]:
    """Return what trains the network of each arm, by its name.

    Args:
        trial: with the images of the sites.

    """
    names = [f"site_{place}" for place in range(SITES)]
    kept: dict[str, Mapping[str, torch.Tensor]] = {}

    def once(base: str, arm: str) -> Mapping[str, torch.Tensor]:
        kept[base] = kept[base] if base in kept else plain[base](arm)
        return kept[base]

    plain: dict[str, Callable[[str], Mapping[str, torch.Tensor]]] = {
        "chain: last": lambda arm: trial.chain(names, arm),
        "chain: all": lambda arm: trial.chain(names, arm, teachers="all"),
        **{
            name: lambda arm, lacks=lacks: trial.chain(names, arm, lacks=lacks, teachers="all")
            for name, lacks in ABLATED.items()
        },
        "chain: there and back": lambda arm: trial.chain(names, arm, teachers="all", there_and_back=True),
        "averaging": lambda arm: trial.average(names, arm),
        **{name: lambda arm, name=name: trial.alone(name, arm) for name in names},
        "pooled": lambda arm: trial.alone("pooled_images", arm),
    }
    sites = {base: ["pooled_images"] if base == "pooled" else names for base in WITH_HEAD}
    return {
        **{base: lambda arm, base=base: once(base, arm) for base in plain},
        **{
            f"{base}{HEAD}": lambda arm, base=base: trial.exact_head(once(base, f"{arm}_trained"), sites[base], arm)
            for base in WITH_HEAD
        },
        FROZEN: lambda arm: trial.exact_head(None, names, arm),
    }


def divided(
    items: Sequence[Mapping[str, Any]], train: np.ndarray, test: np.ndarray, division: str, number: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return places and devices of the images of each folder: those of the sites, all of them, and the test.

    Args:
        items: of the data list.
        train: places of the training items.
        test: places of the others.
        division: one of ``DIVISIONS``.
        number: of the fold, the seed of the lots.

    """
    labels, groups = (np.array([item[key] for item in items]) for key in ("label", "group"))
    site = divide(labels, groups, number, skewed=division == "skewed")
    shown = site if division == "devices" else np.zeros_like(site)
    parts = {f"site_{place}": train[site[train] == place] for place in range(SITES)}
    return {name: (rows, shown[rows]) for name, rows in {**parts, "pooled_images": train, "test": test}.items()}


def measure(
    trial: Trial,
    items: Sequence[Mapping[str, Any]],
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    chosen: Sequence[str],
    found: dict[str, Any],
) -> Iterator[str]:
    """Add the figures of the arms that are missing to those of a run, and yield the name of each that is added.

    Args:
        trial: empty.
        items: of the data list.
        parts: result of :py:func:`divided`.
        chosen: names of arms.
        found: figures of the run by arm.

    """
    if found.keys() >= set(chosen):
        return
    shutil.rmtree(trial.folder, ignore_errors=True)  # of a run that was stopped
    for name, (rows, devices) in parts.items():
        trial.copy([items[row] for row in rows], name, devices)
    ways = arms(trial)
    for arm in chosen:
        if arm not in found:
            trial.bytes, began = 0, time.process_time()
            figures = trial.score(ways[arm](re.sub(r"\W+", "_", arm)), frozen=arm == FROZEN)
            found[arm] = {**figures, "seconds": round(time.process_time() - began, 1), "bytes": trial.bytes}
            yield arm
    shutil.rmtree(trial.folder)


def score(found: Mapping[str, Any], arm: str) -> float:
    """Return the balanced accuracy of an arm.

    Args:
        found: figures of a run by arm.
        arm: one of ``ARMS``.

    """
    if arm.endswith(" site"):
        values = [found[f"site_{place}"]["balanced_accuracy"] for place in range(SITES)]
        return float(max(values) if arm.startswith("best") else np.mean(values))
    return float(found[arm]["balanced_accuracy"])


def table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return rows: means and standard errors over folds, in points, of the arms that all runs of a division have.

    A fold's figure is the mean over its trainings, because these share their test items.

    Args:
        results: figures of runs, each with every site and pooled images.

    """
    lines = ["| division | arm | folds | points | minus best site | minus pooled |", "|---|---|---|---|---|---|"]
    for division in DIVISIONS:
        rows = [found for found in results if found["division"] == division]
        if len({found["fold"] for found in rows}) < 2:
            continue
        best, pooled = (_points(rows, arm) for arm in ("best site", "pooled"))
        for arm in (name for name in ARMS if name.endswith(" site") or all(name in found for found in rows)):
            points = _points(rows, arm)
            cells = (_mean(points), _mean(points - best), _mean(points - pooled))
            lines.append(f"| {division} | {arm} | {len(points)} | {' | '.join(cells)} |")
    return lines


def _points(rows: Sequence[Mapping[str, Any]], arm: str) -> np.ndarray:
    folds = sorted({found["fold"] for found in rows})
    return np.array([np.mean([100 * score(found, arm) for found in rows if found["fold"] == one]) for one in folds])


def _mean(points: np.ndarray) -> str:
    return f"{points.mean():+.1f} ± {points.std(ddof=1) / len(points) ** 0.5:.1f}"


def differences(
    results: Sequence[Mapping[str, Any]], labels: np.ndarray, groups: np.ndarray, control: str = "pooled"
) -> list[str]:
    """Return rows: arms minus a control, in points, with the 95 % interval of a bootstrap over test groups.

    Args:
        results: figures of runs, each with all arms.
        labels: of all items, (N,).
        groups: of all items, (N,).
        control: name of the arm that is subtracted.

    """
    lines = [f"| division | arm | minus {control} | 95 % interval |", "|---|---|---|---|"]
    names = {str(place): str(group) for place, group in enumerate(groups)}
    for division in DIVISIONS:
        for arm in (name for name in ARMS if name != control):
            rows = [found for found in results if found["division"] == division and _told(found, arm, control)]
            if not rows:
                continue
            ours, theirs = ([_predictions(found, name, labels) for found in rows] for name in (arm, control))
            one = arm_difference(ours, theirs, groups=names)["balanced_accuracy"]
            low, high = (100 * limit for limit in one.interval or (np.nan, np.nan))
            lines.append(f"| {division} | {arm} | {100 * one.value:+.1f} | {low:+.1f} to {high:+.1f} |")
    return lines


def _told(found: Mapping[str, Any], *names: str) -> bool:
    return all("predicted" in found.get(name, {}) for name in names)


def _predictions(found: Mapping[str, Any], arm: str, labels: np.ndarray) -> RunPredictions:
    predicted = np.array(list(found[arm]["predicted"]), dtype=int)
    probabilities = np.eye(int(labels.max()) + 1)[predicted]
    test = found["test"]
    return RunPredictions(0, found["fold"], found["seed"], [str(row) for row in test], labels[test], probabilities)


def folds(
    labels: np.ndarray, groups: np.ndarray, *, inner: bool, items: int | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the places of training and test items of each fold.

    Args:
        labels: (N,).
        groups: (N,).
        inner: whether the test items are a quarter of the training items of the first fold, to choose by.
        items: about how many items to use, default None: all.

    """
    use = np.arange(len(labels))
    if items is not None:
        order = np.random.default_rng(0).permutation(np.unique(groups))
        use = use[np.isin(groups, order[: max(1, round(items / len(labels) * len(order)))])]
    found = _folds(use, labels, groups, 5)
    return _folds(found[0][0], labels, groups, 4) if inner else found


def _folds(use: np.ndarray, labels: np.ndarray, groups: np.ndarray, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    split = StratifiedGroupKFold(count, shuffle=True, random_state=0).split(labels[use], labels[use], groups[use])
    return [(use[train], use[test]) for train, test in split]


def main() -> None:
    """Print the tables of one set, and write all figures after each arm; what the file has is not measured again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", choices=sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
    parser.add_argument("dataset_dir", help="its images")
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder for sites and models")
    parser.add_argument("--epochs", type=int, default=4, help="of a stage, 20 iterations each (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="trainings of each fold and division")
    parser.add_argument("--folds", type=int, nargs="+", default=range(5), help="numbers of folds (default: all)")
    parser.add_argument("--divisions", nargs="+", choices=DIVISIONS, default=DIVISIONS)
    parser.add_argument("--arms", nargs="+", default=None, help="default: all but those that lack a part")
    parser.add_argument("--items", type=int, help="about how many items to use (default: all)")
    parser.add_argument("--inner", action="store_true", help="test on groups of the training items of the first fold")
    parser.add_argument("--overlays", nargs="+", default=["scratch.json"], help="of the training")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the training")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    datalist = load_datalist(options.dataset_dir)
    labels, groups = (np.array([item[key] for item in datalist.items]) for key in ("label", "group"))
    about = {"machine": machine(), "epochs": options.epochs, "rounds": ROUNDS, "set": options.set}
    results = json.loads(options.output.read_text(encoding="utf-8"))["results"] if options.output.exists() else []
    kept = {(found["seed"], found["fold"], found["division"]): found for found in results}
    parted = folds(labels, groups, inner=options.inner, items=options.items)
    for seed, number, division in itertools.product(options.seeds, options.folds, options.divisions):
        if number >= len(parted):
            continue
        trial = Trial(
            BUNDLES / options.bundle,
            options.folder / f"{division}_{number}_{seed}",
            options.epochs,
            seed,
            overlays=options.overlays,
            changes=parse_changes(options.set),
        )
        trial.classes = datalist.classes
        train, test = parted[number]
        parts = divided(datalist.items, train, test, division, number)
        counts = {
            name: np.bincount(labels[rows], minlength=len(trial.classes)).tolist() for name, (rows, _) in parts.items()
        }
        found = {"fold": number, "division": division, "seed": seed, "labels": counts, "test": test.tolist()}
        found = kept.setdefault((seed, number, division), found)
        chosen = options.arms or [arm for arm in arms(trial) if arm not in ABLATED]
        for arm in measure(trial, datalist.items, parts, chosen, found):
            print(number, division, seed, arm, f"{found[arm]['balanced_accuracy']:.3f}", flush=True)
            content = json.dumps({**about, "results": list(kept.values())}, separators=(",", ":")) + "\n"
            write_atomically(options.output, content)
    whole = list(kept.values())
    print(
        f"\n{options.bundle}, {SITES} sites\n\n" + "\n".join([*table(whole), "", *differences(whole, labels, groups)])
    )


if __name__ == "__main__":
    main()
