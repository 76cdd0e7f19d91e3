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

"""Measure what a training step, a teacher pass and image loading cost on this machine."""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from monai.engines import default_prepare_batch

from monai_weckd.costs.estimate import StepCosts
from monai_weckd.losses import DistillationLoss
from monai_weckd.networks.features import unwrap
from monai_weckd.networks.freezing import freeze
from monai_weckd.utils.enums import INDEX, VIEW

__all__ = ["peak_bytes", "probe_costs", "resident_bytes"]


def probe_costs(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    loss_function: DistillationLoss,
    image_shape: Sequence[int],
    num_classes: int,
    findings: bool = False,
    batch_size: int,
    pool_ratio: int = 0,
    prepare_batch: Callable = default_prepare_batch,
    inferer: Callable | None = None,
    load: Sequence[Callable[[], Any]] = (),
    item_bytes: int = 0,
    seconds: float = 2.0,
) -> StepCosts:
    """Measure the costs of the parts of a training, without changing network, optimizer or random generators.

    Args:
        network: the student; copies of it are measured.
        optimizer: its optimizer; a new one with the same settings is made for the copy.
        loss_function: task and distillation loss; its attention part is left out.
        image_shape: (C, spatial dimensions) of an image.
        num_classes: number of classes.
        findings: whether a label has a value for each of them, default False.
        batch_size: labeled items in a batch.
        pool_ratio: pool items for each labeled one, default 0.
        prepare_batch: the trainer's function, default MONAI's.
        inferer: the trainer's inferer, default None: a direct call of the network.
        load: functions that each decode an image, called in turn; default none.
        item_bytes: bytes of a decoded image in the cache, default 0.
        seconds: time for all measurements, default 2.0.

    Raises:
        ValueError: When ``seconds`` is not positive.

    """
    if not seconds > 0:
        raise ValueError(f"seconds: expected a positive number, got {seconds}. Two are enough.")
    base = resident_bytes()
    with _untouched():
        student = freeze(network).train().requires_grad_(True)
        teacher = freeze(network)
        other = _like(optimizer, student)
        call = inferer or (lambda images, net: net(images))
        device = next(student.parameters()).device
        batches = [_batch(batch_size * (1 + ratio), image_shape, num_classes, findings) for ratio in (0, pool_ratio)]

        def step(batch: dict[str, torch.Tensor]) -> None:
            images, labels = prepare_batch(dict(batch), device, False)[:2]
            other.zero_grad()
            loss_function(call(images, student), labels).backward()
            other.step()

        def look(batch: dict[str, torch.Tensor]) -> None:
            with torch.inference_mode():
                call(batch["image"].to(device), teacher)

        kept = _activation_bytes(lambda: step(batches[1]))
        share = seconds / (5 if load else 4)
        times = [_median(work, share, batch) for work in (step, look) for batch in batches]
        loading = _median_of_each(load, share) if load else 0.0
        state = sum(part.nbytes for entry in other.state.values() for part in entry.values() if torch.is_tensor(part))
    gradients = sum(parameter.nbytes for parameter in student.parameters())
    return StepCosts(
        step=times[0],
        pool_step=times[1],
        teacher=times[2],
        pool_teacher=times[3],
        validate=times[3] / len(batches[1]["image"]),
        load=loading,
        base_bytes=base,
        network_bytes=sum(tensor.nbytes for tensor in unwrap(network).state_dict().values()),
        training_bytes=gradients + state,
        activation_bytes=kept,
        item_bytes=item_bytes,
    )


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes, 0 on a system without /proc."""
    path = Path("/proc/self/statm")
    return int(path.read_text(encoding="ascii").split()[1]) * 4096 if path.is_file() else 0


def peak_bytes() -> int | None:
    """Return the peak resident memory of this process in bytes, None on a system without /proc."""
    path = Path("/proc/self/status")
    if not path.is_file():
        return None
    lines = path.read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


@contextmanager
def _untouched() -> Iterator[None]:
    """Restore all random generators on exit."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])


def _like(optimizer: torch.optim.Optimizer, network: torch.nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer of the same kind and settings for another network."""
    # no deepcopy: a learning rate scheduler wraps step(), and the copy's step() would update the original
    known = inspect.signature(type(optimizer).__init__).parameters
    return type(optimizer)(
        network.parameters(), **{name: value for name, value in optimizer.defaults.items() if name in known}
    )


def _batch(size: int, shape: Sequence[int], classes: int, findings: bool) -> dict[str, torch.Tensor]:
    places = torch.arange(size)
    labels = places % classes
    labels = torch.nn.functional.one_hot(labels, classes).float() if findings else labels
    return {"image": torch.rand(size, *shape), "label": labels, INDEX: places, VIEW: places}


def _activation_bytes(step: Callable[[], None]) -> int:
    """Return the bytes of the tensors that a step keeps for its backward pass; each storage counts once."""
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(storages.values())


def _median(work: Callable[[Any], None], seconds: float, argument: Any) -> float:
    """Return the median time of a call, repeated for some seconds and at least three times."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work(argument)
        times.append(time.perf_counter() - start)
    return median(times[1:])


def _median_of_each(works: Sequence[Callable[[], Any]], seconds: float) -> float:
    turns = cycle(works)
    return _median(lambda _: next(turns)(), seconds, None)
