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

"""A handler that turns a MONAI trainer into a chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from monai_weckd.engines.events import ChainEvents
from monai_weckd.engines.options import ChainOptions
from monai_weckd.engines.state import Stateful
from monai_weckd.engines.walker import StageWalker
from monai_weckd.handlers.distillation import DistillationHandler

if TYPE_CHECKING:
    import torch
    from monai.engines import Evaluator, SupervisedTrainer

    from monai_weckd.plan.chain_plan import ChainPlan

__all__ = ["ChainHandler"]


class ChainHandler(DistillationHandler):
    """Turn an ordinary :py:class:`monai.engines.SupervisedTrainer` into a chain.

    It gives the same results as :py:class:`~monai_weckd.engines.ChainDistillationTrainer` with the same plan, options
    and data: ``max_epochs`` counts the whole chain, each stage draws its batches from the dataset of the trainer's own
    loader, and after the run the network is the last accepted student. ``engine.state.chain`` holds plan, records and
    label oracle. List it before handlers that listen to ``ChainEvents``, such as
    :py:class:`~monai_weckd.handlers.ChainRecorder`; the order does not matter otherwise.

    Args:
        plan: splits and stages, for example from :py:func:`monai_weckd.plan_training`.
        chain: options of the chain, default None: :py:class:`~monai_weckd.engines.ChainOptions` with its defaults.
        evaluator: the pipeline's own validation engine; its key metric chooses the best weights, and the gate uses it.
            Default None: every stage is accepted with the weights of its last epoch.
        fresh: objects with ``state_dict`` that are reset to their first state in every stage, such as the learning rate
            scheduler.
        first_teacher: a network that teaches before there is an accepted student, such as one from
            :py:func:`monai_weckd.networks.load_teacher`, or a :py:class:`monai_weckd.networks.StoredLogits`. Default
            None: the first stage learns from labels alone.
        distillation: options of the chain in place of ``chain``, such as ``accept="always"``, and arguments of
            :py:class:`DistillationHandler`, except its ``teacher``, which the chain sets.

    Raises:
        ValueError: When there is an attention loss and the teacher is an ensemble, which has no features.

    """

    _finds_teachers = True

    def __init__(
        self,
        plan: ChainPlan,
        chain: ChainOptions | None = None,
        *,
        evaluator: Evaluator | None = None,
        fresh: Sequence[Stateful] = (),
        first_teacher: torch.nn.Module | None = None,
        **distillation: Any,
    ) -> None:
        chain = ChainOptions.taken_from(distillation, chain)
        super().__init__(None, **distillation)
        chain.check_attention(self.loss_function.attention_weight)
        self.options["teacher_cache"] = chain.teacher_cache
        self.walker = StageWalker(plan, chain, evaluator=evaluator, fresh=fresh, first_teacher=first_teacher)

    def attach(self, engine: SupervisedTrainer) -> None:
        """Register the handler.

        Args:
            engine: a ``SupervisedTrainer`` with its own iteration and a loader over a dataset of dictionaries.

        Raises:
            TypeError: When it is another engine, or its batches cannot be drawn anew.
            ValueError: When its epochs cannot be shared among the stages.

        """
        engine.register_events(*ChainEvents)
        # the distiller must start before the chain, so it attaches last: each inserts itself as the first handler
        self.walker.attach(engine)
        super().attach(engine)

    def detach(self, engine: SupervisedTrainer) -> None:
        """Remove the chain, see :py:meth:`DistillationHandler.detach`; the weights stay.

        Args:
            engine: the trainer that it was attached to.

        """
        super().detach(engine)
        self.walker.detach(engine)
