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

"""What a chain does with labels and logits: for one class an image, or for several findings in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from monai_weckd.engines.calibration import divide_logits, fit_scalings, fit_temperature, head_parameters
from monai_weckd.metrics import (
    FindingTally,
    Tally,
    classification_metrics,
    finding_metrics,
    finding_thresholds,
    tally_findings,
    tally_predictions,
)
from monai_weckd.plan.label_kind import Label, LabelKind
from monai_weckd.utils.enums import UNLABELED
from monai_weckd.utils.records import label_columns, probability_columns, read_probabilities

if TYPE_CHECKING:
    from monai_weckd.plan.chain_plan import ChainPlan

__all__ = ["Calibration", "LabelTask", "Scalings", "figure_words", "label_task", "task_of"]


class Calibration(Protocol):
    """A change of logits that makes their probabilities fit the labels."""

    @property
    def temperature(self) -> float:
        """The temperature, or the geometric mean of those of the findings."""

    def of_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Return calibrated logits, (N, C)."""

    def of_head(self, network: torch.nn.Module, head_layer: str | None) -> None:
        """Change the last layer so that the network's logits are calibrated."""


class _Temperature:
    """Divide all logits by a temperature."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def of_logits(self, logits: torch.Tensor) -> torch.Tensor:
        return logits / self.temperature

    def of_head(self, network: torch.nn.Module, head_layer: str | None) -> None:
        divide_logits(network, self.temperature, head_layer=head_layer)


class Scalings:
    """Multiply the logit of each finding by a number, and add another.

    Args:
        scale: (F,).
        offset: (F,).

    """

    def __init__(self, scale: torch.Tensor, offset: torch.Tensor) -> None:
        self.scale, self.offset = scale, offset
        self.temperature = float((-scale.log().mean()).exp())

    def of_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Return calibrated logits, (N, F)."""
        return logits * self.scale.to(logits) + self.offset.to(logits)

    @torch.no_grad()
    def of_head(self, network: torch.nn.Module, head_layer: str | None) -> None:
        """Change the last layer so that the network's logits are calibrated."""
        for tensor in head_parameters(network, head_layer):
            tensor.mul_(self.scale.to(tensor).view(-1, *[1] * (tensor.ndim - 1)))
            if tensor.ndim == 1:
                tensor.add_(self.offset.to(tensor))


class LabelTask(Protocol):
    """What depends on the kind of the labels; :py:func:`label_task` returns the one for a plan.

    Attributes:
        names: names of the classes, or of the findings.
        columns: columns of a table of predictions.
        figures: names and words of the metrics: first the one that is reported first, last the calibration error.
        about: what a record says about the kind of its labels; nothing if an image has one class.

    """

    names: tuple[str, ...]
    columns: list[str]
    figures: Mapping[str, str]
    about: Mapping[str, Any]

    def target(self, labels: Sequence[Label]) -> torch.Tensor:
        """Return labels as a tensor: class indices, (N,), or values of findings, (N, F)."""

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of logits, (N, C) each."""

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the task loss, as a solved stage reports it."""

    def calibration(self, logits: torch.Tensor, target: torch.Tensor) -> Calibration:
        """Fit a calibration to labeled items."""

    def thresholds(self, logits: torch.Tensor, target: torch.Tensor) -> list[float | None] | None:
        """Return from which probability on each finding counts as present; None where an image has one class."""

    def measure(
        self, probabilities: np.ndarray, labels: np.ndarray, thresholds: Sequence[float | None] | None
    ) -> dict[str, Any]:
        """Return the metrics of probabilities, values as for JSON."""

    def tally(
        self,
        probabilities: np.ndarray,
        labels: np.ndarray,
        thresholds: Sequence[float | None] | None,
        weights: np.ndarray,
    ) -> Tally | FindingTally:
        """Return weighted sums, of which those of several folds add up; ``weights`` are (R, N)."""

    def read(self, row: Mapping[str, str]) -> tuple[Any, list[float]]:
        """Return label and probabilities of a row of a table of predictions."""

    def cells(self, label: Label, probabilities: Sequence[float] | None) -> dict[str, Any]:
        """Return the ``columns`` of a table of predictions."""


class _OneClass:
    """An image has one class."""

    figures: Mapping[str, str] = MappingProxyType(
        {
            "balanced_accuracy": "balanced accuracy",
            "accuracy": "accuracy",
            "macro_f1": "macro F1",
            "macro_auc": "macro AUC",
            "ece": "ECE",
        }
    )
    about: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.columns = ["label", "predicted", *probability_columns(names)]

    def target(self, labels: Sequence[Label]) -> torch.Tensor:
        return torch.tensor(labels)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.softmax(logits, dim=1)

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, target)

    def calibration(self, logits: torch.Tensor, target: torch.Tensor) -> Calibration:
        return _Temperature(fit_temperature(logits, target))

    def thresholds(self, logits: torch.Tensor, target: torch.Tensor) -> None:
        return None

    def measure(
        self, probabilities: np.ndarray, labels: np.ndarray, thresholds: Sequence[float | None] | None
    ) -> dict[str, Any]:
        return classification_metrics(probabilities, labels)

    def tally(
        self,
        probabilities: np.ndarray,
        labels: np.ndarray,
        thresholds: Sequence[float | None] | None,
        weights: np.ndarray,
    ) -> Tally:
        return tally_predictions(probabilities, labels, weights)

    def read(self, row: Mapping[str, str]) -> tuple[int, list[float]]:
        return self.names.index(row["label"]), read_probabilities(row, self.names)

    def cells(self, label: Label, probabilities: Sequence[float] | None) -> dict[str, Any]:
        values = [""] * len(self.names) if probabilities is None else list(map(float, probabilities))
        predicted = "" if probabilities is None else self.names[int(np.argmax(probabilities))]
        return dict(zip(self.columns, [self.names[int(label)], predicted, *values], strict=True))  # type: ignore[arg-type]


class _Findings:
    """An image may show several findings, or none."""

    figures: Mapping[str, str] = MappingProxyType(
        {
            "macro_auc": "macro AUC",
            "macro_average_precision": "average precision",
            "macro_f1": "F1",
            "macro_ece": "ECE",
        }
    )
    about: Mapping[str, Any] = MappingProxyType({"findings": True})

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.columns = [*label_columns(names), *probability_columns(names)]

    def target(self, labels: Sequence[Label]) -> torch.Tensor:
        return torch.tensor(labels, dtype=torch.float32)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(logits)

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        known = target >= 0
        return F.binary_cross_entropy_with_logits(logits[known], target[known])

    def calibration(self, logits: torch.Tensor, target: torch.Tensor) -> Calibration:
        return Scalings(*fit_scalings(logits, target.reshape(logits.shape)))

    def thresholds(self, logits: torch.Tensor, target: torch.Tensor) -> list[float | None]:
        return finding_thresholds(torch.sigmoid(logits).numpy(), target.reshape(logits.shape).numpy())

    def measure(
        self, probabilities: np.ndarray, labels: np.ndarray, thresholds: Sequence[float | None] | None
    ) -> dict[str, Any]:
        return finding_metrics(probabilities, labels.reshape(probabilities.shape), thresholds)

    def tally(
        self,
        probabilities: np.ndarray,
        labels: np.ndarray,
        thresholds: Sequence[float | None] | None,
        weights: np.ndarray,
    ) -> FindingTally:
        return tally_findings(probabilities, labels, thresholds, weights)

    def read(self, row: Mapping[str, str]) -> tuple[list[int], list[float]]:
        label = [int(row[column] or UNLABELED) for column in label_columns(self.names)]
        return label, read_probabilities(row, self.names)

    def cells(self, label: Label, probabilities: Sequence[float | None] | None) -> dict[str, Any]:
        known = [int(value) if value >= 0 else "" for value in np.reshape(label, -1)]
        told = [None] * len(self.names) if probabilities is None else probabilities
        values = ["" if value is None else float(value) for value in told]
        return dict(zip(self.columns, [*known, *values], strict=True))


def label_task(plan: ChainPlan) -> LabelTask:
    """Return what a chain does with labels and logits.

    Args:
        plan: a plan.

    """
    return task_of(plan.kind)


def task_of(kind: LabelKind) -> LabelTask:
    """Return what is done with labels and logits where there is no plan.

    Args:
        kind: the kind of the labels.

    """
    return (_Findings if kind.findings else _OneClass)(kind.names)


def figure_words(record: Mapping[str, Any]) -> Mapping[str, str]:
    """Return names and words of the metrics that a record has, such as ``chain.json``.

    Args:
        record: with the ``about`` of its :py:class:`LabelTask`.

    """
    return task_of(LabelKind((), bool(record.get("findings")))).figures
