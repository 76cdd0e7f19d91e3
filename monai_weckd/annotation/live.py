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

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from monai_weckd.data.embedding import feature_moments
from monai_weckd.engines.label_task import task_of
from monai_weckd.engines.shares import shared_target
from monai_weckd.engines.solver import estimate_layer, fit_layer, layer_inputs, solve_finding_layer, solve_layer
from monai_weckd.metrics import classification_metrics, finding_metrics, finding_thresholds
from monai_weckd.networks import SolvedHead, StandardizedLinear
from monai_weckd.plan.label_kind import Label, LabelKind
from monai_weckd.utils.enums import SHARES, UNLABELED

__all__ = ["Estimates", "LiveHead", "LiveModel"]

_CHUNK = 4096  # images at a time, so that intermediate results stay small
_SAMPLE = 4096  # images without a label that stand for all in an estimate
_BACK = 10  # labels between the estimates that are compared


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class LiveModel:
    """A head for the labels given so far.

    Args:
        ids: ids of the images, N.
        kind: names of the C classes or findings.
        inputs: what its weights are multiplied with, (N, D).
        weight: its weights, (C, D).
        bias: (C,).
        head: the solved head, before calibration.
        labeled: indices of the labeled images, n, in the order of the head's ``out_of_fold``.
        target: class of each, (n,), or findings, (n, C).
        wanted: what the head was solved for: the target, or the share of each class, (n, C), if readers differ.
        judged: probabilities of each by a head that saw no label of its group, (n, C), NaN where there is none.

    """

    ids: tuple[str, ...]
    kind: LabelKind
    inputs: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    head: SolvedHead
    labeled: tuple[int, ...]
    target: torch.Tensor
    wanted: torch.Tensor
    judged: np.ndarray

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Probabilities of all images, (N, C)."""
        with torch.no_grad():
            logits = torch.nn.functional.linear(self.inputs, self.weight, self.bias)
        return task_of(self.kind).probabilities(logits).numpy()

    @cached_property
    def held_out(self) -> dict[str, np.ndarray]:
        """Probabilities, (C,), of each labeled image by a head that saw no label of its group.

        Images are missing whose class no other group has; of findings, NaN stands for what was not held out.
        """
        places = zip(self.labeled, self.judged, strict=True)
        return {self.ids[place]: row for place, row in places if not np.isnan(row).all()}

    @cached_property
    def summary(self) -> dict[str, Any]:
        """``labels``, their number, and in cross-validation ``balanced_accuracy``, or ``macro_auc`` of findings.

        None stands for a figure that is unknown. Of findings there are ``thresholds``, too.
        """
        found: dict[str, Any] = {"labels": len(self.target)}
        known = ~np.isnan(self.judged)
        if self.kind.findings:
            told = np.where(known, self.target.numpy(), UNLABELED)
            judged = np.nan_to_num(self.judged)
            thresholds = finding_thresholds(judged, told)
            metrics = finding_metrics(judged, told, thresholds)
            return {**found, "macro_auc": metrics["macro_auc"], "thresholds": thresholds}
        value = classification_metrics(self.judged, self.target.numpy())["balanced_accuracy"] if known.all() else None
        return {**found, "balanced_accuracy": value}


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
        # a layer that does not standardize takes the features as they are
        self._inputs = rows
        if isinstance(layer, StandardizedLinear):
            self._inputs = torch.empty_like(rows)
            for part, out in zip(rows.split(_CHUNK), self._inputs.split(_CHUNK), strict=True):
                out.copy_(layer_inputs(layer, part))

    def solve(
        self,
        labels: Mapping[str, Label],
        groups: Mapping[str, str],
        shares: Mapping[str, Sequence[float]] | None = None,
    ) -> LiveModel | None:
        """Return the head for some labels, None while fewer than two classes, or no finding on both sides, have one.

        Args:
            labels: class of each labeled image by its id, or a value for each finding; other images are passed over.
            groups: group of each of them.
            shares: share of each class, C numbers, by id of the images whose readers differ, default None: none.

        """
        places = sorted(self._place[key] for key in labels if key in self._place)  # in the order of a stage
        known = [self.ids[place] for place in places]
        target = task_of(self._kind).target([labels[key] for key in known])
        if not _is_enough(target):
            return None
        parts = [{SHARES: shares[key]} if shares and key in shares else {} for key in known]
        wanted = shared_target(target, parts, len(self._kind.names))
        given = self._inputs[places], wanted, [groups[key] for key in known], self._scaling
        if self._kind.findings:
            head, calibration = solve_finding_layer(self._layer, *given)
            judged = torch.sigmoid(calibration.of_logits(head.out_of_fold))
        else:
            head, temperature = solve_layer(self._layer, *given)
            # not minus infinity, which a class without a label has
            judged = torch.softmax(head.out_of_fold.clamp(min=-1e4) / temperature, dim=1)
        weight, bias = self._layer.weight.detach().clone(), self._layer.bias.detach().clone()
        solved = self.ids, self._kind, self._inputs, weight, bias, head
        return LiveModel(*solved, tuple(places), target, wanted, judged.numpy())

    def estimate(self, model: LiveModel, groups: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the estimate of :py:func:`monai_weckd.engines.estimate.estimate_accuracy` for a model's head.

        At most 4,096 images without a label, evenly spaced, stand for all. None where a stage would have none: while
        some class has labels in fewer than two groups, once more images have a label than lack one, and of findings.

        Args:
            model: result of :py:meth:`solve`.
            groups: group of each image that may serve, by its id.

        """
        labeled = set(model.labeled)
        others = [place for place, key in enumerate(self.ids) if key in groups and place not in labeled]
        if self._kind.findings or np.isnan(model.judged).any() or len(others) < len(labeled):
            return None
        if len(model.target.unique()) < len(self._kind.names):
            return None
        some = others[:: math.ceil(len(others) / _SAMPLE)]
        known, unknown = (([groups[self.ids[place]] for place in part]) for part in (model.labeled, some))
        told = self._inputs[[*model.labeled]], model.wanted, known
        sample = self._inputs[some], unknown
        return estimate_layer(model.head, told, [sample], self._scaling, share=len(others) / len(some))


def _is_enough(target: torch.Tensor) -> bool:
    """Return whether a head can be solved for some labels, (N,) or (N, F)."""
    if target.ndim == 1:
        return len(target.unique()) > 1
    return bool(((target == 0).any(dim=0) & (target == 1).any(dim=0)).any())


class Estimates:
    """The last estimates of balanced accuracy, one for each number of labels."""

    def __init__(self) -> None:
        self._kept: deque[dict[str, Any]] = deque(maxlen=10 * _BACK)

    def add(self, labels: int, found: Mapping[str, Any] | None) -> None:
        """Keep an estimate in place of one for as many labels.

        Args:
            labels: number of labels.
            found: result of :py:meth:`LiveHead.estimate`.

        """
        if self._kept and self._kept[-1]["labels"] == labels:
            self._kept.pop()
        if found is not None:
            self._kept.append({"labels": labels, **found["balanced_accuracy"]})

    def of(self, labels: int) -> dict[str, Any]:
        """Return the estimate for a number of labels as ``estimate``, and the one of ten labels before as ``before``.

        Both have ``labels``, ``value`` and ``interval``; None stands for one that is not known (yet). Where the server
        has seen fewer labels since its start, the first estimate is the one before.

        Args:
            labels: number of labels.

        """
        kept = list(self._kept)
        now = next((one for one in reversed(kept) if one["labels"] == labels), None)
        earlier = [one for one in kept if one["labels"] <= labels - _BACK]
        first = next((one for one in kept if one["labels"] < labels), None)
        return {"estimate": now, "before": earlier[-1] if earlier else first}
