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

"""Let the current network choose the items of the next shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import DataLoader

from monai_weckd.data.stage import StageDataset
from monai_weckd.data.stage_loader import collate_batch
from monai_weckd.engines.distributed import from_rank_zero
from monai_weckd.engines.label_task import label_task
from monai_weckd.networks.features import extract
from monai_weckd.networks.outputs import taking
from monai_weckd.plan.oracle import is_labeled
from monai_weckd.selection import SelectionContext, choose_findings, select_items
from monai_weckd.selection.context import NEED_PROBABILITIES
from monai_weckd.utils.enums import UNLABELED

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer

    from monai_weckd.plan.chain_plan import ChainPlan

__all__ = ["ask_for_shard"]


def ask_for_shard(
    engine: SupervisedTrainer,
    plan: ChainPlan,
    items: Sequence[Mapping[str, Any]],
    *,
    stage: int,
    guided: bool,
    head_layer: str | None = None,
    stand_in: int = UNLABELED,
) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """Select the items to label next with the trainer's current network.

    The network sees every training image once, without augmentation and without its label. All ranks get rank 0's
    answer. "margin" and "badge" need a network that has learned from labels, so the first shard is "typical" instead.

    Args:
        engine: the trainer; its network is the last accepted student, or the network before the first stage.
        plan: the plan; the stage has no shard in it yet.
        items: the training items in the dataset's order.
        stage: stage number, from 1.
        guided: whether the network has learned from a shard, so that its probabilities mean something.
        head_layer: module path of the classification head, default None: the last linear layer.
        stand_in: class number that the transforms get in place of a label, default -1.

    Returns:
        Their ids; the places of the findings that are asked for by id, nothing where labels are asked for whole.

    Raises:
        ValueError: When the transforms make several images of an item.

    """
    chosen: list[str] = []
    asked: dict[str, tuple[int, ...]] = {}
    if engine.state.rank == 0:
        features, logits = extract(
            engine.network,
            _images(engine, stand_in),
            head_layer=head_layer,
            device=engine.state.device,
            inferer=taking(engine.inferer, engine.state.distiller.output_index),
        )
        if len(features) != len(items):
            raise ValueError(
                f"selection: expected one image of each of {len(items)} items, got {len(features)} images. Pass "
                "selection='random' where the transforms make a list of an item."
            )
        # the probabilities of an untrained network mean nothing
        selection = plan.settings.selection
        strategy = "typical" if not guided and selection in NEED_PROBABILITIES else selection
        known = {key for part in plan.stages for key in part.new}
        context = SelectionContext(
            features=features.numpy(),
            probabilities=label_task(plan).probabilities(logits).numpy() if guided else None,
            groups=[item["group"] for item in items],
            labeled=np.array([item["id"] in known for item in items]),
            askable=np.array([is_labeled(item) for item in items]),
            seed=plan.settings.seed,
            stage=stage,
            findings=plan.findings,
        )
        places = select_items(strategy, context, count=plan.size_of(stage))
        chosen = [items[place]["id"] for place in places]
        if plan.settings.findings_per_image is not None:
            sure = None if context.probabilities is None else context.probabilities[places]
            size = {"num_findings": len(plan.classes), "count": plan.settings.findings_per_image}
            asked = choose_findings(sure, chosen, **size, seed=plan.settings.seed)
    return from_rank_zero((chosen, asked))


def _images(engine: SupervisedTrainer, stand_in: int) -> Any:
    """Return the training images in order, with random transforms left out or seeded by the index."""
    template: Any = engine.data_loader
    if hasattr(template.dataset, "gather"):
        return template.dataset
    dataset = StageDataset(template.dataset, {}, stand_in=stand_in)
    return DataLoader(
        dataset,
        batch_sampler=[
            [(index, index) for index in range(start, min(start + 64, len(dataset)))]
            for start in range(0, len(dataset), 64)
        ],
        collate_fn=lambda items: collate_batch(template.collate_fn, items),
    )
