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

"""Freeze a network's backbone, and train its head on embeddings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import torch
from ignite.engine import Events

from monai_weckd.data.content import digest
from monai_weckd.data.embedding import EmbeddingDataset
from monai_weckd.data.item_level import refuse_several
from monai_weckd.engines.events import ChainEvents
from monai_weckd.inferers import HeadInferer
from monai_weckd.networks.features import extract, find_head, find_module, unwrap
from monai_weckd.networks.freezing import fingerprint

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer

    from monai_weckd.losses import DistillationLoss

__all__ = ["FrozenBackbone"]


class FrozenBackbone:
    """Freeze everything in a network except its head, so that a chain has its heads on embeddings computed once.

    This handler of the trainer provides what the trainer and its evaluator need: datasets that give embeddings
    (:py:meth:`embed`), an ``inferer`` that calls the head on embeddings and the whole network on images, and the
    :py:meth:`parameters` for the optimizer. No parameter and no buffer outside the head changes. Saved models still
    hold the whole network. Embeddings are computed in single precision, and without any dropout before the head.

    Args:
        network: the student, on its device; its parameters outside the head no longer require gradients.
        freeze: whether to freeze at all, default True. With False the handler has no effect.
        head_layer: module path of the head, default None: the last ``torch.nn.Linear``. Its input must be (B, D), and
            no layer may follow it.
        cache_dir: folder for embeddings, default None: in memory.

    Raises:
        ValueError: When there is no such head, or there are several processes.

    """

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        freeze: bool = True,
        head_layer: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.network = network
        self.freeze = freeze
        self.cache_dir = cache_dir
        # not a list: MONAI's DataLoader searches lists among a dataset's attributes, which would never end here
        self.datasets: dict[EmbeddingDataset, None] = {}
        self.inferer = HeadInferer(head_layer)
        if freeze:
            _check_processes()
            self.head_layer = find_head(network, head_layer)
            network.requires_grad_(False)
            find_module(unwrap(network), self.head_layer).requires_grad_(True)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Yield the parameters for the optimizer: the head's, or all without ``freeze``."""
        network = unwrap(self.network)
        yield from (find_module(network, self.head_layer) if self.freeze else network).parameters()

    def embed(self, dataset: Any) -> Any:
        """Return a dataset that gives embeddings, or the same dataset without ``freeze``.

        Args:
            dataset: see :py:class:`~monai_weckd.data.EmbeddingDataset`; None gives None.

        Raises:
            ValueError: When items have several images, without ``freeze``.

        """
        if not self.freeze or dataset is None:
            refuse_several(getattr(dataset, "data", None))
            return dataset
        embedding = EmbeddingDataset(dataset, self, cache_dir=self.cache_dir)
        self.datasets[embedding] = None
        return embedding

    def embeddings(self, batches: Iterable[torch.Tensor]) -> torch.Tensor:
        """Return the embeddings, (N, D), of batches of images.

        Args:
            batches: each (B, C, spatial dimensions).

        """
        return extract(self.network, iter(batches), head_layer=self.head_layer)[0]

    def fingerprint(self) -> str:
        """Return a digest of the network's layers and their options, and of all weights outside the head."""
        network = unwrap(self.network)
        # networks with the same weights may differ in a stride, an activation or a flip
        return digest(fingerprint(network, without=self.head_layer), repr(network))

    def attach(self, engine: SupervisedTrainer) -> None:
        """Register the handler.

        Args:
            engine: the chain's trainer.

        """
        if self.freeze:
            engine.add_event_handler(Events.STARTED, self._begin)
            engine.add_event_handler(ChainEvents.STAGE_STARTED, self._fill)
            engine.add_event_handler(ChainEvents.STAGE_COMPLETED, self._check)

    def _begin(self, engine: SupervisedTrainer) -> None:
        _check_loss(engine.state.distiller.criterion)
        engines: list[Any] = [one for one in (engine, engine.state.chain.evaluator) if one is not None]
        for inferer in [one.inferer for one in engines]:
            if not isinstance(inferer, HeadInferer):
                raise ValueError(
                    f"inferer: expected a HeadInferer in trainer and evaluator, got {type(inferer).__name__}. "
                    "Pass inferer=backbone.inferer to both."
                )
        self._fill()

    def _check(self) -> None:
        if self.fingerprint() != self._digest:
            raise RuntimeError(
                "backbone: expected unchanged parameters and buffers, got some that changed since the stage's start. "
                "Look for code that trains it or runs it in train mode."
            )

    def _fill(self) -> None:
        """Compute embeddings that are missing or from another backbone."""
        self._digest = self.fingerprint()
        for dataset in self.datasets:
            dataset.fill(self._digest)


def _check_loss(loss_function: DistillationLoss) -> None:
    if loss_function.attention_weight > 0:
        raise ValueError(
            f"attention_weight: expected 0 with a frozen backbone, got {loss_function.attention_weight}. "
            "A frozen backbone has no attention to learn."
        )


def _check_processes() -> None:
    if idist.get_world_size() > 1:
        raise ValueError(
            f"backbone: expected one process, got {idist.get_world_size()}. "
            "Heads train in seconds: start it without torchrun."
        )
