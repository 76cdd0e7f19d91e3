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

"""P1, P2 and P3: time training steps against handwritten loops and MONAI's trainer."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from itertools import repeat
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.engines import IterationEvents, SupervisedTrainer
from monai.networks.nets import resnet18

from benchmarks.harness import Result, interleave, keep_heap, ratio
from benchmarks.rivals import model_optimizer_step, torchdistill_step
from monai_weckd.engines import DistillationTrainer
from monai_weckd.losses import DistillationLoss
from monai_weckd.networks import freeze

__all__ = ["measure"]

TEMPERATURE, RATE = 4.0, 0.01
Batch = dict[str, torch.Tensor]


class Loader:
    """A loader that repeats one batch."""

    def __init__(self, batch: Batch, length: int) -> None:
        self.batch, self.length = batch, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        return iter(repeat(self.batch, self.length))


def make_batch(size: int, side: int, *, meta: bool = False) -> Batch:
    """Return a batch of images with labels, in the type that such a dataset returns."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, side, side, generator=generator)
    labels = torch.randint(0, 5, (size,), generator=generator)
    places = torch.arange(size)
    return {"image": MetaTensor(images) if meta else images, "label": labels, "index": places, "view": places}


def big_network(seed: int = 0) -> torch.nn.Module:
    """Return a ResNet-18 for five classes."""
    torch.manual_seed(seed)
    return resnet18(spatial_dims=2, n_input_channels=3, num_classes=5, conv1_t_stride=2)


def tiny_network(side: int) -> torch.nn.Module:
    """Return a network of 137 parameters on 8 x 8 places of an image; its steps consist of overhead only."""
    torch.manual_seed(0)
    first = torch.nn.Conv2d(3, 4, 3, stride=side // 8)
    pool = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return torch.nn.Sequential(first, torch.nn.ReLU(), *pool, torch.nn.Linear(4, 5))


def supervised_step(network: torch.nn.Module) -> Callable[[Batch], torch.Tensor]:
    """Return a handwritten supervised step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)

    def step(batch: Batch) -> torch.Tensor:
        network.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(network(batch["image"]), batch["label"])
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def distillation_step(network: torch.nn.Module, teacher: torch.nn.Module) -> Callable[[Batch], torch.Tensor]:
    """Return a handwritten distillation step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)

    def step(batch: Batch) -> torch.Tensor:
        network.train()
        optimizer.zero_grad()
        with torch.no_grad():
            target = F.softmax(teacher(batch["image"]) / TEMPERATURE, dim=1)
        logits = network(batch["image"])
        divergence = F.kl_div(F.log_softmax(logits / TEMPERATURE, dim=1), target, reduction="batchmean")
        loss = 0.5 * F.cross_entropy(logits, batch["label"]) + 0.5 * TEMPERATURE**2 * divergence
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def again(step: Callable[[Batch], object], batch: Batch, repeats: int) -> Callable[[], None]:
    """Return a function that takes some steps on the same batch."""

    def run() -> None:
        for _ in range(repeats):
            step(batch)

    return run


def run_epoch(trainer: SupervisedTrainer) -> Callable[[], None]:
    """Return a function that trains for one more epoch."""
    trainer.state.max_epochs = 0

    def run() -> None:
        trainer.state.max_epochs += 1
        trainer.run()

    return run


def our_trainer(network: torch.nn.Module, batch: Batch, length: int, **options: Any) -> DistillationTrainer:
    """Return our trainer over one batch."""
    return DistillationTrainer(
        "cpu",
        1,
        train_data_loader=Loader(batch, length),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=RATE),
        loss_function=DistillationLoss(weight=0.5, temperature=TEMPERATURE),
        **options,
    )


def stock_trainer(network: torch.nn.Module, batch: Batch, length: int, **options: Any) -> SupervisedTrainer:
    """Return MONAI's trainer with its defaults, except for the given options."""
    return SupervisedTrainer(
        torch.device("cpu"),
        1,
        train_data_loader=Loader(batch, length),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=RATE),
        loss_function=torch.nn.CrossEntropyLoss(),
        **options,
    )


def check_losses(teacher: torch.nn.Module, batch: Batch, steps: int = 3) -> list[float]:
    """Return the largest difference among the losses of all distillation arms, for each of a few steps."""
    rivals = {"temperature": TEMPERATURE, "learning_rate": RATE}
    losses: list[list[float]] = []
    hand = distillation_step(big_network(), teacher)
    losses.append([hand(batch).item() for _ in range(steps)])
    for make in (torchdistill_step, model_optimizer_step):
        step = make(big_network(), deepcopy(teacher), **rivals)
        losses.append([step(batch["image"], batch["label"]).item() for _ in range(steps)])
    trainer, ours = our_trainer(big_network(), batch, steps, teacher=freeze(teacher)), []
    trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, lambda e: ours.append(e.state.output["loss"].item()))
    trainer.run()
    values = torch.tensor([*losses, ours])
    return (values - values[0]).abs().amax(0).tolist()


def measure_steps(rounds: int, repeats: int, batch: Batch) -> list[Result]:
    """Measure P1 and P3."""
    teacher = freeze(big_network(1))
    rivals = {"temperature": TEMPERATURE, "learning_rate": RATE}
    one, hand = supervised_step(big_network()), distillation_step(big_network(), teacher)
    two = torchdistill_step(big_network(), deepcopy(teacher), **rivals)
    three = model_optimizer_step(big_network(), deepcopy(teacher), **rivals)

    def forward() -> None:
        with torch.no_grad():
            teacher(batch["image"])

    arms: dict[str, Callable[[], object]] = {
        "supervised": lambda: [one(batch) for _ in range(repeats)],
        "teacher": lambda: [forward() for _ in range(repeats)],
        "hand": lambda: [hand(batch) for _ in range(repeats)],
        "torchdistill": lambda: [two(batch["image"], batch["label"]) for _ in range(repeats)],
        "Model Optimizer": lambda: [three(batch["image"], batch["label"]) for _ in range(repeats)],
        "ours": run_epoch(our_trainer(big_network(), batch, repeats, teacher=freeze(teacher))),
        "cached": run_epoch(our_trainer(big_network(), batch, repeats, teacher=freeze(teacher), teacher_cache=True)),
    }
    times = interleave(arms, rounds=rounds)
    step = median(times["supervised"]) / repeats * 1e3
    agreement = check_losses(teacher, make_batch(8, 64))
    return [
        Result("P1", "losses of all arms on the same weights: largest difference", agreement[0], 1e-6, unit=""),
        Result("P1", "losses of all arms after two steps of their own: largest difference", agreement[-1], unit=""),
        Result(
            "P1",
            "distillation step / (supervised step + teacher forward) by hand",
            ratio(times, "ours", "supervised", "teacher"),
            1.03,
            note=f"ResNet-18, supervised step {step:.0f} ms",
        ),
        Result("P1", "distillation step / that of a hand loop", ratio(times, "ours", "hand")),
        Result(
            "P1",
            "distillation step of a hand loop / its supervised step + teacher forward",
            ratio(times, "hand", "supervised", "teacher"),
        ),
        Result("P1", "distillation step / torchdistill's", ratio(times, "ours", "torchdistill"), 1.0),
        Result("P1", "distillation step / Model Optimizer's", ratio(times, "ours", "Model Optimizer"), 1.0),
        Result("P3", "step with the teacher cache / supervised step", ratio(times, "cached", "supervised"), 1.05),
    ]


def measure_overhead(rounds: int, repeats: int) -> list[Result]:
    """Measure P2 on a tiny network, so that only overhead remains, in many short turns to limit the effect of noise."""
    keep_heap()
    small, large = make_batch(16, 32), make_batch(16, 224)
    meta = make_batch(16, 224, meta=True)
    arms: dict[str, Callable[[], object]] = {}
    for side, plain, batch in ((32, small, small), (224, large, meta)):
        teacher = freeze(tiny_network(side))
        arms[f"hand {side}"] = again(distillation_step(tiny_network(side), teacher), plain, repeats)
        arms[f"ours {side}"] = run_epoch(our_trainer(tiny_network(side), batch, repeats, teacher=freeze(teacher)))
    arms["supervised 224"] = again(supervised_step(tiny_network(224)), large, repeats)
    arms["stock 224"] = run_epoch(stock_trainer(tiny_network(224), meta, repeats))
    times = interleave(arms, rounds=rounds, clock=time.process_time)

    def extra(one: str, other: str) -> float:
        return median(a - b for a, b in zip(times[one], times[other], strict=True)) / repeats * 1e3

    stock = extra("stock 224", "supervised 224")
    return [
        Result("P2", "overhead of our trainer over a hand loop, 32 x 32", extra("ours 32", "hand 32"), 0.15, unit="ms"),
        Result(
            "P2",
            "our overhead / that of MONAI's trainer by default, 224 x 224 MetaTensors",
            extra("ours 224", "hand 224") / stock,
            0.2,
            note=f"MONAI's: {stock:.2f} ms a step",
        ),
    ]


def measure(*, quick: bool = False) -> list[Result]:
    """Measure the cost of a step."""
    if quick:
        return [*measure_steps(1, 1, make_batch(2, 32)), *measure_overhead(1, 3)]
    return [*measure_steps(11, 6, make_batch(8, 64)), *measure_overhead(61, 25)]
