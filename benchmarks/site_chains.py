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
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.few_labels import BUNDLES
from benchmarks.harness import machine
from benchmarks.sites import SITES, divide
from monai_weckd.data import load_datalist
from monai_weckd.fl.average_rounds import AverageParty
from monai_weckd.fl.chain_rounds import ChainParty, StageAnswer, Student, run_over_sites
from monai_weckd.metrics import classification_metrics
from monai_weckd.predict.model import PredictionBundle

ARMS = ("chain: last", "chain: all", "chain: there and back", "averaging", "best site", "mean site", "pooled")
DIVISIONS = ("even", "skewed", "devices")
SIDE = 128  # pixels of the copies of the images; the networks see 64
ROUNDS = 4


def device(image: Image.Image, number: int) -> Image.Image:
    """Return an image as a stand-in for another device shows it: as it is, darker and redder, or brighter and blurred.

    Args:
        image: RGB.
        number: of the device.

    """
    if number == 1:
        red, green, blue = ImageEnhance.Brightness(image).enhance(0.7).split()
        return Image.merge("RGB", (red.point(lambda value: 1.2 * value), green, blue.point(lambda value: 0.8 * value)))
    if number == 2:
        return ImageEnhance.Brightness(image).enhance(1.3).filter(ImageFilter.GaussianBlur(SIDE / 64))
    return image


class Trial:
    """The sites of one fold and division, in folders.

    Args:
        bundle: its folder.
        folder: for the images and models of all sites.
        epochs: of a stage; each other arm has as many steps behind its model as the chain.
        seed: of the training.

    """

    def __init__(self, bundle: Path, folder: Path, epochs: int, seed: int) -> None:
        self.bundle, self.folder, self.epochs, self.seed = bundle, folder, epochs, seed
        self.classes: tuple[str, ...] = ()
        self.test: tuple[torch.Tensor, np.ndarray] | None = None
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
                image = Image.open(item["image"]).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
                device(image, int(which)).save(target / f"{number}.png", compress_level=1)
                table.writerow((f"{number}.png", self.classes[item["label"]], item["group"], "train"))

    def settings(self, site: str, arm: str, **changes: Any) -> dict[str, Any]:
        """Return the settings of a party.

        Args:
            site: folder of its images.
            arm: name of the folder for its results.
            changes: values to set in the configuration.

        """
        given = {"seed": self.seed, "val_fraction": 0, "max_epochs": self.epochs, **changes}
        output = self.folder / arm / site
        shutil.rmtree(output, ignore_errors=True)
        return {
            **{"bundle": str(self.bundle), "dataset_dir": str(self.folder / site), "output_dir": str(output)},
            **{"classes": self.classes, "overlays": ["scratch.json"], "changes": given},
        }

    def score(self, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Return the figures of a network on the test items.

        Args:
            weights: its ``state_dict``.

        """
        path = self.folder / "scored.pt"
        torch.save(dict(weights), path)
        model = PredictionBundle(self.bundle, path, overlays=["inference_scratch.json"])
        if self.test is None:
            items = load_datalist(self.folder / "test").items
            images = torch.stack([torch.as_tensor(model.load(item["image"])) for item in items])
            self.test = images, np.array([item["label"] for item in items])
        images, labels = self.test
        probabilities = np.concatenate([model.predict(part) for part in images.split(64)])
        tested = classification_metrics(probabilities, labels)
        recalls = [float((probabilities.argmax(1)[labels == c] == c).mean()) for c in range(len(self.classes))]
        return {"balanced_accuracy": float(tested["balanced_accuracy"]), "recalls": recalls}

    def chain(self, sites: Sequence[str], arm: str, **options: Any) -> dict[str, torch.Tensor]:
        """Return the weights of a chain over sites.

        Args:
            sites: names of the folders.
            arm: name of the arm.
            options: see :py:func:`run_over_sites`.

        """
        teachers = {"teachers": options.get("teachers", "last")}
        epochs = (
            self.epochs * SITES // 5 if options.get("there_and_back") else self.epochs
        )  # five stages in place of three
        parties: dict[str, ChainParty] = {}

        def ask(students: Sequence[Student], site: str, visit: int, again: bool) -> StageAnswer:
            party = parties.setdefault(site, ChainParty({**self.settings(site, arm, max_epochs=epochs), **teachers}))
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

    def alone(self, site: str, arm: str) -> dict[str, torch.Tensor]:
        """Return the weights of one site, or of pooled images.

        Args:
            site: name of the folder.
            arm: name of the arm.

        """
        return ChainParty(self.settings(site, arm, max_epochs=SITES * self.epochs)).answer([]).weights


def measure(
    trial: Trial, items: Sequence[Mapping[str, Any]], train: np.ndarray, test: np.ndarray, division: str, number: int
) -> dict[str, Any]:
    """Return the figures of all arms on one fold and division.

    Args:
        trial: empty.
        items: of the data list.
        train: places of the training items.
        test: places of the others.
        division: one of ``DIVISIONS``.
        number: of the fold, the seed of the lots.

    """
    labels, groups = np.array([item["label"] for item in items]), np.array([item["group"] for item in items])
    site = divide(labels, groups, number, skewed=division == "skewed")
    shown = site if division == "devices" else np.zeros_like(site)
    names = [f"site_{place}" for place in range(SITES)]
    parts = {name: train[site[train] == place] for place, name in enumerate(names)}
    for name, rows in {**parts, "pooled_images": train, "test": test}.items():
        trial.copy([items[row] for row in rows], name, shown[rows])
    arms: dict[str, Callable[[str], Mapping[str, torch.Tensor]]] = {
        "chain: last": lambda arm: trial.chain(names, arm),
        "chain: all": lambda arm: trial.chain(names, arm, teachers="all"),
        "chain: there and back": lambda arm: trial.chain(names, arm, teachers="all", there_and_back=True),
        "averaging": lambda arm: trial.average(names, arm),
        **{name: lambda arm, name=name: trial.alone(name, arm) for name in names},
        "pooled": lambda arm: trial.alone("pooled_images", arm),
    }
    counts = {name: np.bincount(labels[rows], minlength=len(trial.classes)).tolist() for name, rows in parts.items()}
    found: dict[str, Any] = {"fold": number, "division": division, "seed": trial.seed, "labels": counts}
    for arm, weights in arms.items():
        trial.bytes, began = 0, time.process_time()
        figures = trial.score(weights(arm.replace(": ", "_").replace(" ", "_")))
        found[arm] = {**figures, "seconds": round(time.process_time() - began, 1), "bytes": trial.bytes}
        print(number, division, arm, f"{figures['balanced_accuracy']:.3f}", flush=True)
    return found


def score(found: Mapping[str, Any], arm: str) -> float:
    """Return the balanced accuracy of an arm.

    Args:
        found: result of :py:func:`measure`.
        arm: one of ``ARMS``.

    """
    if arm.endswith(" site"):
        values = [found[f"site_{place}"]["balanced_accuracy"] for place in range(SITES)]
        return float(max(values) if arm.startswith("best") else np.mean(values))
    return float(found[arm]["balanced_accuracy"])


def table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return rows: means and standard errors over folds, in points.

    Args:
        results: of :py:func:`measure`.

    """
    lines = ["| division | runs | " + " | ".join(ARMS) + " |", "|---" * (len(ARMS) + 2) + "|"]
    for division in DIVISIONS:
        rows = [found for found in results if found["division"] == division]
        if len(rows) > 1:
            points = 100 * np.array([[score(found, arm) for arm in ARMS] for found in rows])
            errors = points.std(axis=0, ddof=1) / len(rows) ** 0.5
            cells = [f"{mean:.1f} ± {error:.1f}" for mean, error in zip(points.mean(axis=0), errors, strict=True)]
            lines.append(f"| {division} | {len(rows)} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print the table of one set, and write all figures after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", choices=sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
    parser.add_argument("dataset_dir", help="its images")
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder for sites and models")
    parser.add_argument("--epochs", type=int, default=4, help="of a stage, 20 iterations each (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each fold and division")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    datalist = load_datalist(options.dataset_dir)
    labels, groups = (np.array([item[key] for item in datalist.items]) for key in ("label", "group"))
    folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(labels, labels, groups))
    results: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for number, (train, test) in enumerate(folds):
            for division in DIVISIONS:
                folder = options.folder / f"{division}_{number}_{seed}"
                trial = Trial(BUNDLES / options.bundle, folder, options.epochs, seed)
                trial.classes = datalist.classes
                results.append(measure(trial, datalist.items, train, test, division, number))
                about = {"machine": machine(), "epochs": options.epochs, "rounds": ROUNDS, "results": results}
                options.output.write_text(json.dumps(about, separators=(",", ":")) + "\n", encoding="utf-8")
                shutil.rmtree(folder)
    print(f"\n{options.bundle}, {SITES} sites\n\n" + "\n".join(table(results)))


if __name__ == "__main__":
    main()
