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

"""Give each stage of a chain its batches, and keep withheld labels out of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from monai_weckd.data.blind import LabelTrace, listed_copies, same_draws, shown_copies, trace_label
from monai_weckd.data.stage_loader import stage_loader
from monai_weckd.utils.enums import UNLABELED

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer
    from torch.utils.data import DataLoader

    from monai_weckd.engines.state import ChainState

__all__ = ["StageData"]

logger = logging.getLogger(__name__)


class StageData:
    """Give each stage its loader: labeled items with labels, pool items without.

    Args:
        state: the chain's state, with its plan and items.

    """

    def __init__(self, state: ChainState) -> None:
        self.state = state
        # pool items for each labeled item in the batches of the present stage
        self.pool_ratio = 0
        self._trace: LabelTrace | None = None
        self._warned_copies: set[str] = set()

    def loader(self, engine: SupervisedTrainer, stage: int, *, epochs: int, start: int = 0) -> DataLoader:
        """Return the loader of a stage.

        Args:
            engine: the trainer; without a teacher, no pool items come, because they would have no target.
            stage: number of the stage, from 1.
            epochs: length of the stage.
            start: epochs to leave out at its beginning, default 0.

        """
        guided = engine.state.distiller.teacher is not None
        return self._loader(
            engine,
            stage,
            pool_ratio=self.state.options.pool_ratio if guided else 0,
            num_batches=epochs * engine.state.epoch_length,
            start=start * engine.state.epoch_length,
        )

    def try_pool(self, engine: SupervisedTrainer) -> None:
        """Refuse a pipeline whose loss would get withheld labels, before hours have passed in stages without a pool.

        Raises:
            ValueError: When the loss would get them.

        """
        loader = self._loader(engine, 1, pool_ratio=self.state.options.pool_ratio, num_batches=1, start=0)
        if self.pool_ratio == 0:
            return
        with same_draws():
            items = loader.dataset.__getitems__(next(iter(loader.batch_sampler)))
            batch = engine.prepare_batch(
                loader.collate_fn(items), engine.state.device, engine.non_blocking, **engine.to_kwargs
            )
        self.check_target(batch[1])

    def check_target(self, target: Any) -> None:
        """Stop a chain whose loss would get labels that the plan withholds.

        A table from file names to labels, in a ``collate_fn`` or in ``prepare_batch``, is in no item, so nothing else
        shows it.

        Args:
            target: the labels that the loss gets, (B, ...).

        Raises:
            ValueError: When more items have a label than the sampler has drawn with one.

        """
        if not self.pool_ratio or not isinstance(target, torch.Tensor) or target.ndim == 0:
            return
        known = int(target.as_subclass(torch.Tensor).reshape(len(target), -1).ne(UNLABELED).any(dim=1).sum())
        drawn = len(target) // (1 + self.pool_ratio)
        if known > drawn:
            raise ValueError(
                f"label: expected {UNLABELED} for images whose labels are withheld, got labels of {known} images in a "
                f"batch of {len(target)} in which {drawn} have one. Let collate_fn and prepare_batch take 'label' from "
                "the item, or pass pool_ratio=0."
            )

    def trace(self, engine: SupervisedTrainer) -> LabelTrace:
        """Return where the transforms take the label; found once, when images without labels first come."""
        if self._trace is None:
            loader: Any = engine.data_loader
            self._trace = trace_label(loader.dataset, len(self.state.plan.classes))
        return self._trace

    def _loader(self, engine: SupervisedTrainer, stage: int, *, pool_ratio: int, num_batches: int, start: int) -> Any:
        plan = self.state.plan
        index = {item["id"]: place for place, item in enumerate(self.state.items)}
        labels = {index[key]: label for key, label in self.state.reveal(stage).items()}
        self.pool_ratio = 0 if pool_ratio and self._has_label_copies(engine, labels) else pool_ratio
        return stage_loader(
            engine.data_loader,
            labels=labels,
            pool=[index[key] for key in plan.pool(stage)],
            pool_ratio=self.pool_ratio,
            num_batches=num_batches,
            seed=plan.settings.seed,
            stage=stage,
            views=self.state.options.views,
            start=start,
            num_classes=len(plan.classes),
            stand_in=self.trace(engine).stand_in if self.pool_ratio else UNLABELED,
        )

    def _has_label_copies(self, engine: SupervisedTrainer, labels: Mapping[int, Any]) -> bool:
        """Return whether an item holds its label in another place too, and log that the stage leaves pool images out.

        A loss that reads the copy would train on labels that nobody has revealed, or on what stands in their place.
        """
        loader: Any = engine.data_loader
        if getattr(loader.dataset, "whole_batches", False):
            return False
        trace = self.trace(engine)
        classes = len(self.state.plan.classes)
        copies = {*trace.copies, *listed_copies(self.state.items, labels, classes)}
        copies |= {*shown_copies(loader.dataset, labels, classes)}
        if trace.elsewhere:
            copies.add("the dataset's own labels beside `data`")
        if copies - self._warned_copies:
            self._warned_copies |= copies
            logger.warning(
                "pool_ratio: expected the label under 'label' alone, got it in %s too. Images without labels are left "
                "out, so that no withheld label reaches the loss; let the loss read 'label', and remove the copies.",
                ", ".join(sorted(copies)),
            )
        return bool(copies)
