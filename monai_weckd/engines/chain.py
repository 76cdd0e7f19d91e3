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

"""The trainer that runs a whole chain of students."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from ignite.engine import EventEnum
from monai.engines import Evaluator
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from monai_weckd.engines.distillation import DistillationTrainer
from monai_weckd.engines.events import ChainEvents
from monai_weckd.engines.options import ChainOptions
from monai_weckd.engines.stage_record import StageRecord
from monai_weckd.engines.state import Stateful
from monai_weckd.engines.walker import StageWalker
from monai_weckd.losses import DistillationLoss
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.oracle import LabelOracle

__all__ = ["ChainDistillationTrainer"]


class ChainDistillationTrainer(DistillationTrainer):
    """Train a chain of students in one run; the last accepted student teaches the next one.

    ``max_epochs`` counts the epochs of the whole chain and ``epoch_length`` is constant, so epoch numbers, curves,
    validation intervals and checkpoints work as in any MONAI training. At the start of a stage, the chain reveals the
    labels of its shard, loads the starting weights into ``network``, and resets the optimizer and everything in
    ``fresh``. At the end of a stage, it restores the best weights of the stage, and the gate accepts or rejects them. A
    frozen copy of an accepted student is the next teacher. After the run ``network`` is the last accepted student.
    ``ChainEvents.STAGE_STARTED`` and ``STAGE_COMPLETED`` mark the stages; ``engine.state`` holds ``stage``,
    ``stage_epoch`` and ``stage_epochs``. After WeCKD, arXiv 2510.14668.

    Args:
        device: device of the training.
        max_epochs: epochs of the whole chain.
        plan: splits and stages. If the loader's dataset holds other items than ``plan.train``, for example because
            another program has replaced them, the stages are planned anew for those items.
        chain: options of the chain, default None: :py:class:`ChainOptions` with its defaults.
        train_data_loader: a loader over all training items; each stage draws its batches from the loader's dataset. Its
            labels reach a batch only if the plan reveals them.
        network: the student; the same object in all stages.
        optimizer: the student's optimizer.
        loss_function: task, distillation and attention loss and their weights.
        evaluator: the validation engine; after each of its runs, its key metric decides whether the weights are the
            best of the stage. Default None: every stage is accepted with the weights of its last epoch.
        fresh: objects with ``state_dict``, such as the scheduler, that are reset to their first state in every stage.
        first_teacher: a network that teaches before there is an accepted student, such as one from
            :py:func:`monai_weckd.networks.load_teacher`, or a :py:class:`monai_weckd.networks.StoredLogits`. Default
            None: the first stage learns from labels alone.
        student_layer: module path of the student's features where ``loss_function.attention_weight`` is above 0.
        teacher_layer: module path of the teacher's features, default ``student_layer``.
        train_handlers: handlers of the training.
        event_names: further events for the engine to know.
        options: options of the chain in place of ``chain``, and further arguments of
            :py:class:`monai.engines.SupervisedTrainer`.

    Raises:
        ValueError: When the epochs cannot be shared among the stages.
        ValueError: When there is an attention loss and ``teacher`` is "ensemble", which has no features.
        TypeError: When the loader's dataset is not a list of dictionaries.

    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        *,
        plan: ChainPlan,
        chain: ChainOptions | None = None,
        train_data_loader: Iterable | DataLoader,
        network: torch.nn.Module,
        optimizer: Optimizer,
        loss_function: DistillationLoss,
        evaluator: Evaluator | None = None,
        fresh: Sequence[Stateful] = (),
        first_teacher: torch.nn.Module | None = None,
        student_layer: str | None = None,
        teacher_layer: str | None = None,
        train_handlers: Sequence | None = None,
        event_names: Sequence[str | EventEnum | type[EventEnum]] | None = None,
        **options: Any,
    ) -> None:
        chain = ChainOptions.taken_from(options, chain)
        chain.check_attention(loss_function.attention_weight)
        self.walker = StageWalker(plan, chain, evaluator=evaluator, fresh=fresh, first_teacher=first_teacher)
        super().__init__(
            device,
            max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=loss_function,
            student_layer=student_layer,
            teacher_layer=teacher_layer,
            teacher_cache=chain.teacher_cache,
            # the walker attaches first, and so acts first
            train_handlers=[self.walker, *(train_handlers or [])],
            event_names=[ChainEvents, *(event_names or [])],
            **options,
        )

    @property
    def plan(self) -> ChainPlan:
        """The plan in force."""
        return self.walker.plan

    @property
    def paused(self) -> bool:
        """Whether the run ends before the chain does, so that another run continues the chain."""
        return self.walker.paused(self)

    @property
    def oracle(self) -> LabelOracle | None:
        """The oracle that revealed this run's labels, with its ledger; None before the run."""
        return self.walker.oracle

    @property
    def records(self) -> tuple[StageRecord, ...]:
        """What each stage did, so far."""
        return self.walker.records
