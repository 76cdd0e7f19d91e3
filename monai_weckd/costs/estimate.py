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

"""Estimate the time and memory of a chain from its plan and measured step costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.splits import divide_epochs

__all__ = ["CostEstimate", "StepCosts", "estimate_cost"]


@dataclass(frozen=True)
class StepCosts:
    """Costs of the parts of a training on one machine, measured by :py:func:`monai_weckd.costs.probe_costs`.

    Args:
        step: seconds of a training step on a batch of labeled items, augmentation included.
        pool_step: seconds of a training step on a batch of labeled and pool items.
        teacher: seconds of a teacher pass on a batch of labeled items.
        pool_teacher: seconds of a teacher pass on a batch of labeled and pool items.
        validate: seconds for one validation item.
        load: seconds to decode one image, 0.0 if the images are already decoded.
        base_bytes: memory of the process before the chain begins.
        network_bytes: memory of the network's weights and buffers.
        training_bytes: memory of the gradients and the optimizer's state.
        activation_bytes: memory that a step on the largest batch keeps for its backward pass.
        item_bytes: memory of one decoded image in the cache.

    """

    step: float
    pool_step: float
    teacher: float
    pool_teacher: float
    validate: float
    load: float
    base_bytes: int
    network_bytes: int
    training_bytes: int
    activation_bytes: int
    item_bytes: int


@dataclass(frozen=True)
class CostEstimate:
    """The estimated cost of a chain.

    Args:
        steps: optimizer steps of each stage.
        seconds: seconds of each stage, validation included.
        load_seconds: seconds to decode every image once.
        peak_bytes: peak memory of the process.

    """

    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    load_seconds: float
    peak_bytes: int

    @property
    def total_seconds(self) -> float:
        """Seconds of the whole chain, decoding included."""
        return sum(self.seconds) + self.load_seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the total as JSON-compatible data."""
        return {**asdict(self), "total_seconds": self.total_seconds}


def estimate_cost(
    plan: ChainPlan,
    costs: StepCosts,
    *,
    max_epochs: int,
    epoch_length: int,
    batch_size: int,
    pool_ratio: int = 0,
    views: int = 0,
    stage_epochs: Sequence[int] | None = None,
    val_interval: int = 1,
) -> CostEstimate:
    """Estimate the cost of a chain.

    Stage ``k`` of ``n_k`` steps takes ``n_k step + [k > 1] m_k teacher``. The teacher runs in ``m_k = n_k`` steps. With
    a teacher cache of ``V`` views, it runs once for each item and view: in ``min(n_k, V passes)`` steps, if a pass over
    the stage's items takes ``passes`` steps. Validation is added.

    Args:
        plan: the plan of the chain.
        costs: costs of the parts.
        max_epochs: epochs of the whole chain.
        epoch_length: steps of an epoch.
        batch_size: labeled items in a batch.
        pool_ratio: pool items for each labeled one, from the second stage on. Default 0.
        views: views of an item in the teacher cache, default 0: no cache.
        stage_epochs: epochs of each stage, default None: shared evenly.
        val_interval: epochs from one validation to the next, default 1.

    """
    epochs = divide_epochs(max_epochs, plan.settings.num_stages, None if stage_epochs is None else tuple(stage_epochs))
    steps, seconds = [], []
    for stage, count in zip(plan.stages, epochs, strict=True):
        number = count * epoch_length
        guided = stage.stage > 1
        pooled = guided and pool_ratio > 0
        asked = number
        if views:
            labeled = plan.num_labeled(stage.stage)
            passes = [labeled / batch_size]
            if pooled:
                passes.append((len(plan.train) - labeled) / (batch_size * pool_ratio))
            asked = min(number, round(views * max(passes)))
        spent = number * (costs.pool_step if pooled else costs.step)
        spent += guided * asked * (costs.pool_teacher if pooled else costs.teacher)
        # at the end of a stage, the recorder runs validation and test once more
        spent += (count // val_interval + 1) * len(plan.val) * costs.validate + len(plan.test) * costs.validate
        steps.append(number)
        seconds.append(spent)
    images = len(plan.train) + len(plan.val) + len(plan.test)
    # four copies of the weights: the student's, its initial ones, the best of the stage and the teacher's
    peak = costs.base_bytes + 4 * costs.network_bytes + costs.training_bytes + costs.activation_bytes
    return CostEstimate(
        steps=tuple(steps),
        seconds=tuple(seconds),
        load_seconds=images * costs.load,
        peak_bytes=peak + images * costs.item_bytes,
    )
