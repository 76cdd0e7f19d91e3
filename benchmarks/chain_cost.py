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

"""P5: measure what a chain costs beyond its steps, and against the same recipe from stock parts."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from monai.bundle import ConfigWorkflow
from monai.data import Dataset
from torch.utils.data import DataLoader

from benchmarks.harness import ROOT, Result, child, interleave
from benchmarks.steps import RATE, TEMPERATURE, big_network, supervised_step
from monai_weckd import plan_chain
from monai_weckd.data.phantoms import make_phantom
from monai_weckd.engines import ChainDistillationTrainer, ChainOptions
from monai_weckd.losses import DistillationLoss
from monai_weckd.networks import freeze
from monai_weckd.plan.settings import PlanSettings

__all__ = ["measure"]

BUNDLE = ROOT / "bundles" / "otoscopy_chain_classification"
# the recipe that stock_recipe.py writes out: random shards and a constant teacher, whatever the bundle's defaults are
RECIPE = {
    "selection": "random",
    "distillation_weight": 0.5,
    "distillation_weight_end": 0.5,
    "loss_function#temperature": 2.0,
    "chain#averaging": 0.0,
    "chain#calibrate": False,
}


def make_items(number: int, side: int) -> list[dict[str, Any]]:
    """Return images in memory."""
    generator = torch.Generator().manual_seed(0)
    return [
        {"image": torch.randn(3, side, side, generator=generator), "label": n % 5, "group": f"g{n}", "id": f"{n}"}
        for n in range(number)
    ]


def make_chain(items: list[dict[str, Any]], *, epochs: int, length: int, pool_ratio: int) -> Callable[[], None]:
    """Return a function that trains a chain of three stages, on 30 % of the labels each."""
    plan, network = plan_chain(items, PlanSettings(label_fraction=0.3), classes=tuple("abcde")), big_network()

    def run() -> None:
        ChainDistillationTrainer(
            "cpu",
            3 * epochs,
            plan=plan,
            train_data_loader=DataLoader(Dataset(plan.select(items, "train")), batch_size=8),
            network=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=RATE),
            loss_function=DistillationLoss(weight=0.5, temperature=TEMPERATURE),
            epoch_length=length,
            chain=ChainOptions(accept="always", pool_ratio=pool_ratio),
        ).run()

    return run


def measure_formula(rounds: int, *, epochs: int, length: int, side: int, number: int) -> list[Result]:
    """Compare chains with the sum of their steps, both measured in turns."""
    items = make_items(number, side)
    images = torch.stack([item["image"] for item in items[:16]])
    step, teacher = supervised_step(big_network()), freeze(big_network(1))

    def look(size: int) -> None:
        with torch.no_grad():
            teacher(images[:size])

    def train(size: int) -> None:
        step({"image": images[:size], "label": torch.arange(size) % 5})

    arms: dict[str, Callable[[], object]] = {}
    for size in (8, 16):
        arms[f"step {size}"] = lambda size=size: [train(size) for _ in range(length)]
        arms[f"look {size}"] = lambda size=size: [look(size) for _ in range(length)]
    for ratio in (0, 1):
        arms[f"chain {ratio}"] = make_chain(items, epochs=epochs, length=length, pool_ratio=ratio)
    times = interleave(arms, rounds=rounds, warm_up=1)
    results, steps = [], epochs * length
    for ratio, size in ((0, 8), (1, 16)):
        ratios = [
            chain / (epochs * (first + 2 * (step + look)))
            for chain, first, step, look in zip(
                times[f"chain {ratio}"], times["step 8"], times[f"step {size}"], times[f"look {size}"], strict=True
            )
        ]
        what = f"{'with pool images' if ratio else 'labeled images alone'}, {steps} steps a stage"
        results.append(Result("P5", f"chain of three stages / its cost formula, {what}", median(ratios), 1.1))
    return results


def run_bundle(dataset_dir: Path) -> dict[str, float]:
    """Train the otoscopy bundle by the common recipe and return its seconds, with the report but without imports."""
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        workflow = ConfigWorkflow(
            [str(BUNDLE / "configs" / f"{name}.json") for name in ("train", "scratch")],
            workflow_type="train",
            logging_file=False,
            bundle_root=str(BUNDLE),
            dataset_dir=str(dataset_dir),
            output_dir=f"{folder}/output",
            **RECIPE,
        )
        workflow.initialize()
        workflow.run()
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}


def measure_bundle(rounds: int) -> list[Result]:
    """Compare the bundle's default run with the same recipe from stock parts."""
    found: dict[str, list[dict[str, float]]] = {"chain_cost": [], "stock_recipe": []}
    with tempfile.TemporaryDirectory() as folder:
        make_phantom("otoscopy", f"{folder}/data", items=240, seed=0)
        for _ in range(rounds):
            for name, runs in found.items():
                runs.append(child(name, f"{folder}/data"))
    ours, stock = ([run["cpu_seconds"] for run in found[name]] for name in found)
    value = median(b / a for a, b in zip(ours, stock, strict=True))
    note = f"CPU seconds {median(stock):.0f} / {median(ours):.0f}, {rounds} rounds"
    what = "otoscopy bundle's run, random shards: the recipe from stock MONAI parts / ours"
    return [Result("P5", what, value, 2.0, at_least=True, note=note)]


def measure(*, quick: bool = False) -> list[Result]:
    """Measure P5."""
    if quick:
        return measure_formula(1, epochs=1, length=1, side=32, number=80)
    results = []
    # a tenth and a thirtieth of the bundles' steps: the work once per stage takes the time of a step or two
    for length in (6, 2):
        results += measure_formula(7, epochs=4, length=length, side=64, number=160)
    return [*results, *measure_bundle(7)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the otoscopy bundle and print its seconds, as JSON.")
    parser.add_argument("dataset_dir", type=Path)
    print(json.dumps(run_bundle(parser.parse_args().dataset_dir)))
