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

"""P9: measure a teacher that a handler adds against one in the trainer."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import SupervisedTrainer

from benchmarks.harness import Result, interleave, keep_heap, ratio
from benchmarks.steps import TEMPERATURE, Batch, big_network, make_batch, our_trainer, run_epoch, stock_trainer
from monai_weckd.handlers import DistillationHandler
from monai_weckd.networks import freeze

__all__ = ["measure"]


def taught_trainer(teacher: torch.nn.Module, batch: Batch, length: int, **options: Any) -> SupervisedTrainer:
    """Return MONAI's trainer over one batch, with a teacher that a handler adds."""
    handler = DistillationHandler(teacher, weight=0.5, temperature=TEMPERATURE)
    return stock_trainer(big_network(), batch, length, train_handlers=[handler], **options)


def measure(*, quick: bool = False) -> list[Result]:
    """Measure P9: the cost of a teacher that a handler adds, relative to one in the trainer."""
    rounds, repeats, batch = (1, 1, make_batch(2, 32)) if quick else (21, 6, make_batch(8, 64))
    keep_heap()
    teacher = freeze(big_network(1))
    arms = {
        "trainer": run_epoch(our_trainer(big_network(), batch, repeats, teacher=freeze(teacher))),
        # as DistillationTrainer has it by default
        "handler": run_epoch(taught_trainer(freeze(teacher), batch, repeats, decollate=False, optim_set_to_none=True)),
        "defaults": run_epoch(taught_trainer(freeze(teacher), batch, repeats)),
    }
    times = interleave(arms, rounds=rounds)
    what = "step of MONAI's trainer with DistillationHandler / of DistillationTrainer"
    return [
        Result("P9", what, ratio(times, "handler", "trainer"), 1.02, note="ResNet-18, with the same options"),
        Result(
            "P9",
            f"{what}, MONAI's defaults",
            ratio(times, "defaults", "trainer"),
            note="gradients are zeroed, batches taken apart",
        ),
    ]
