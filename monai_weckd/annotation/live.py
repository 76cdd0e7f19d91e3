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

"""The head of all labels so far, solved after each answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from monai_weckd.data.embedding import feature_moments
from monai_weckd.engines.solver import fit_layer, layer_inputs, solve_layer
from monai_weckd.metrics import classification_metrics

__all__ = ["LiveHead", "LiveModel"]

_CHUNK = 4096  # images at a time, so that intermediate results stay small


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class LiveModel:
    """A head for the labels given so far.

    Args:
        ids: ids of the images, N.
        probabilities: class probabilities of all images, (N, C).
        summary: ``labels``, their number, and ``balanced_accuracy`` in cross-validation, None where it is unknown.

    """

    ids: tuple[str, ...]
    probabilities: np.ndarray
    summary: Mapping[str, Any]


class LiveHead:
    """Solve the head for all labels after each answer, on embeddings that are in memory.

    It is the head that a stage would solve for the same labels, without the stage: nothing is written.

    Args:
        layer: the head, which is changed.
        ids: ids of the images, N.
        features: input of the head, (N, D).

    """

    def __init__(self, layer: torch.nn.Linear, ids: Sequence[str], features: np.ndarray) -> None:
        self.ids = tuple(ids)
        self._place = {key: place for place, key in enumerate(self.ids)}
        self._layer = layer
        rows = torch.from_numpy(np.asarray(features, dtype=np.float32))
        self._scaling = fit_layer(layer, *feature_moments(rows))
        self._inputs = torch.cat([layer_inputs(layer, part) for part in rows.split(_CHUNK)])

    def solve(self, labels: Mapping[str, int], groups: Mapping[str, str]) -> LiveModel | None:
        """Return the head's answers, None while fewer than two classes have a label.

        Args:
            labels: class of each labeled image by its id; other images are passed over.
            groups: group of each of them.

        """
        known = [key for key in self.ids if key in labels]  # in the order of a stage
        target = torch.tensor([labels[key] for key in known])
        if len(target.unique()) < 2:
            return None
        inputs = self._inputs[[self._place[key] for key in known]]
        head, _ = solve_layer(self._layer, inputs, target, [groups[key] for key in known], self._scaling)
        with torch.no_grad():
            logits = torch.nn.functional.linear(self._inputs, self._layer.weight, self._layer.bias)
        return LiveModel(self.ids, torch.softmax(logits, dim=1).numpy(), _summary(head.out_of_fold, target))


def _summary(out_of_fold: torch.Tensor, target: torch.Tensor) -> dict[str, Any]:
    told = ~out_of_fold.isnan().any(dim=1)
    value = None
    if told.all():
        value = classification_metrics(out_of_fold.exp().numpy(), target.numpy())["balanced_accuracy"]
    return {"labels": len(target), "balanced_accuracy": value}
