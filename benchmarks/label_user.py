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


"""A user of the label server in a few lines, by REST alone: ask, label, train, and test on groups that it never saw."""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import requests

from benchmarks.label_order import arguments, hold_out
from monai_weckd.metrics import classification_metrics

__all__ = ["UserAtTheScreen", "put_images", "repeat", "summary", "user_arguments"]


def put_images(items: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Link images into a folder with a manifest of their groups, without labels."""
    for item in items:
        path = folder / item["id"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(item["image"])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "label", "group"], *([item["id"], "", item["group"]] for item in items)])


class UserAtTheScreen:
    """Label the images that the server suggests.

    Args:
        url: the server's address.
        truth: class of each image by its id.

    """

    def __init__(self, url: str, truth: Mapping[str, str]) -> None:
        self.url = url
        self.truth = truth
        self.speaker = requests.Session()
        self.speaker.trust_env = False
        self.waits: list[float] = []

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Return what is in the answer."""
        began = time.perf_counter()
        answer = self.speaker.request(method, self.url + path, timeout=600, **options)
        answer.raise_for_status()
        self.waits.append(time.perf_counter() - began)
        return answer.json()

    def label(self, count: int) -> None:
        """Label so many images, each when it is asked for."""
        for _ in range(count):
            image = self.ask("POST", "/activelearning/chain", json={})["id"]
            files = {"label": ("label.json", f'{{"label": "{self.truth[image]}"}}')}
            self.ask("PUT", "/datastore/label", params={"image": image, "tag": "final"}, files=files)

    def train(self) -> tuple[dict[str, Any], float]:
        """Train a stage; returns what it did, and the seconds until the server said so."""
        began = time.perf_counter()
        self.ask("POST", "/train/chain")
        while (state := self.ask("GET", "/weckd/state"))["training"]["running"]:
            time.sleep(0.1)
        if state["training"]["error"]:
            raise RuntimeError(state["training"]["error"])
        return state["stages"][-1], time.perf_counter() - began

    def test(self, items: Sequence[Mapping[str, Any]]) -> float:
        """Return the balanced accuracy on images that are uploaded one by one."""
        classes = sorted(set(self.truth.values()))
        predicted = []
        for item in items:
            with Path(item["image"]).open("rb") as file:
                name = Path(item["image"]).name
                found = self.ask("POST", "/infer/chain", params={"output": "json"}, files={"file": (name, file)})
            predicted.append(classes.index(found["label"]))
        labels = [classes.index(self.truth[item["id"]]) for item in items]
        # all probability goes to the class that the server names, which is enough for this metric
        figures = classification_metrics(np.eye(len(classes))[predicted], labels)
        return float(figures["balanced_accuracy"] or 0)


def walk(user: UserAtTheScreen, test: Sequence[Mapping[str, Any]], *, labels: int, stages: int) -> list[float]:
    """Simulate a user who labels and trains; print a line per stage and return the balanced accuracy after each one."""
    found = []
    for _ in range(stages):
        user.waits.clear()
        user.label(labels)
        wait = 1000 * sum(user.waits) / labels
        stage, seconds = user.train()
        found.append(user.test(test))
        print(
            f"stage {stage['stage']}: {stage['labeled']} labels in training, "
            f"{'accepted' if stage['accepted'] else 'rejected'}, {seconds:.1f} s, {wait:.0f} ms for a label, "
            f"balanced accuracy {found[-1]:.3f}",
            flush=True,
        )
    return found


def user_arguments(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of benchmarks that label through a server."""
    parser = arguments(description)
    parser.add_argument("--cache_dir", type=Path, help="where embeddings are kept from one run to the next")
    parser.add_argument("--output", type=Path, help="JSON with the balanced accuracy after each stage, by seed")
    return parser


def repeat(args: argparse.Namespace, come: Callable[[str, Mapping[str, str]], UserAtTheScreen]) -> None:
    """Simulate a user on a separate server for each seed, which holds out other groups, and print the means.

    Args:
        args: from the command line.
        come: makes the user of a server's address and the truth.

    """
    from tests.apps.label.label_server import LabelServer

    bundle = Path(__file__).resolve().parents[1] / "bundles" / args.bundle
    rows = []
    for seed in range(args.seeds):
        items, test, truth = hold_out(args.dataset_dir, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            studies = Path(folder, "images")
            put_images(items, studies)
            settings = ["--set", f"seed={seed}"]
            if args.cache_dir is not None:
                settings += ["--set", f"cache_dir={args.cache_dir}"]
            with LabelServer(studies, Path(folder, "output"), settings=settings, bundle=bundle) as server:
                began = time.perf_counter()
                UserAtTheScreen(server.url, truth).ask("POST", "/scoring/chain", params={"run_sync": "true"})
                seconds = time.perf_counter() - began
                print(
                    f"seed {seed}: {len(items)} images looked at in {seconds:.1f} s, {len(test)} held out", flush=True
                )
                rows.append(walk(come(server.url, truth), test, labels=args.labels, stages=args.stages))
                print(f"memory {server.memory_mb():.0f} MiB")
            if args.output is not None:
                args.output.write_text(json.dumps(rows) + "\n", encoding="utf-8")
    print(summary(rows))


def summary(rows: Sequence[Sequence[float]]) -> str:
    """Return mean, standard deviation over seeds, and the number of seeds in which a stage beats the previous one.

    Args:
        rows: balanced accuracy after each stage, by seed.

    """
    table = np.array(rows)
    spread = table.std(axis=0, ddof=1) if len(rows) > 1 else np.full(table.shape[1], np.nan)
    lines = []
    for stage, (mean, deviation) in enumerate(zip(table.mean(axis=0), spread, strict=True), 1):
        steps = table[:, stage - 1] - table[:, stage - 2] if stage > 1 else None
        rise = (
            "" if steps is None else f", {steps.mean():+.3f}, above the stage before in {sum(steps > 0)} of {len(rows)}"
        )
        lines.append(f"stage {stage}: mean {mean:.3f} +- {deviation:.3f}{rise}")
    return "\n".join(lines)


def main() -> None:
    """Print a line for each stage of each seed, and the means."""
    repeat(user_arguments(__doc__).parse_args(), UserAtTheScreen)


if __name__ == "__main__":
    main()
