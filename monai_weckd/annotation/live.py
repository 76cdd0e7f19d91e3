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
from monai_weckd.engines.label_task import Scalings, task_of
from monai_weckd.engines.solver import fit_layer, layer_inputs, solve_finding_layer, solve_layer
from monai_weckd.metrics import classification_metrics, finding_metrics, finding_thresholds
from monai_weckd.networks.solved_head import SolvedHead
from monai_weckd.plan.label_kind import Label, LabelKind
from monai_weckd.utils.enums import UNLABELED

__all__ = ["LiveHead", "LiveModel"]

_CHUNK = 4096  # images at a time, so that intermediate results stay small


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class LiveModel:
    """A head for the labels given so far.

    Args:
        ids: ids of the images, N.
        probabilities: probabilities of all images, (N, C).
        summary: ``labels``, their number, and in cross-validation ``balanced_accuracy``, or ``macro_auc`` of findings,
            None where it is unknown.

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
        kind: names of the classes or findings.

    """

    def __init__(self, layer: torch.nn.Linear, ids: Sequence[str], features: np.ndarray, kind: LabelKind) -> None:
        self._kind = kind
        self.ids = tuple(ids)
        self._place = {key: place for place, key in enumerate(self.ids)}
        self._layer = layer
        rows = torch.from_numpy(np.asarray(features, dtype=np.float32))
        self._scaling = fit_layer(layer, *feature_moments(rows))
        self._inputs = torch.cat([layer_inputs(layer, part) for part in rows.split(_CHUNK)])

    def solve(self, labels: Mapping[str, Label], groups: Mapping[str, str]) -> LiveModel | None:
        """Return the head's answers, None while fewer than two classes, or no finding on both sides, have a label.

        Args:
            labels: class of each labeled image by its id, or a value for each finding; other images are passed over.
            groups: group of each of them.

        """
        known = [key for key in self.ids if key in labels]  # in the order of a stage
        target = task_of(self._kind).target([labels[key] for key in known])
        if not _is_enough(target):
            return None
        inputs = self._inputs[[self._place[key] for key in known]]
        given = inputs, target, [groups[key] for key in known], self._scaling
        if self._kind.findings:
            summary = _summary_of_findings(*solve_finding_layer(self._layer, *given), target)
        else:
            summary = _summary(solve_layer(self._layer, *given)[0].out_of_fold, target)
        with torch.no_grad():
            logits = torch.nn.functional.linear(self._inputs, self._layer.weight, self._layer.bias)
        return LiveModel(self.ids, task_of(self._kind).probabilities(logits).numpy(), summary)


def _is_enough(target: torch.Tensor) -> bool:
    """Return whether a head can be solved for some labels, (N,) or (N, F)."""
    if target.ndim == 1:
        return len(target.unique()) > 1
    return bool(((target == 0).any(dim=0) & (target == 1).any(dim=0)).any())


def _summary_of_findings(head: SolvedHead, calibration: Scalings, target: torch.Tensor) -> dict[str, Any]:
    judged = ~head.out_of_fold.isnan()
    probabilities = torch.sigmoid(calibration.of_logits(head.out_of_fold)).nan_to_num().numpy()
    told = target.where(judged, torch.full_like(target, UNLABELED)).numpy()
    thresholds = finding_thresholds(probabilities, told)
    found = finding_metrics(probabilities, told, thresholds)
    return {"labels": len(target), "macro_auc": found["macro_auc"], "thresholds": thresholds}


def _summary(out_of_fold: torch.Tensor, target: torch.Tensor) -> dict[str, Any]:
    told = ~out_of_fold.isnan().any(dim=1)
    value = None
    if told.all():
        value = classification_metrics(out_of_fold.exp().numpy(), target.numpy())["balanced_accuracy"]
    return {"labels": len(target), "balanced_accuracy": value}
