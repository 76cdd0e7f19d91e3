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

"""Solve the head of a stage on frozen features, in place of training it step by step."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.engines import IterationEvents
from monai.utils import CommonKeys

from monai_weckd.data.embedding import EmbeddingDataset
from monai_weckd.engines.calibration import fit_scalings, fit_temperatures
from monai_weckd.engines.estimate import estimate_accuracy, estimate_findings, represented
from monai_weckd.engines.label_task import Scalings, label_task
from monai_weckd.engines.shares import in_parts, shared_target
from monai_weckd.metrics import classification_metrics, finding_metrics, finding_thresholds
from monai_weckd.networks.features import find_head, find_module, unwrap
from monai_weckd.networks.pooled import StandardizedLinear
from monai_weckd.networks.solved_findings import solve_findings
from monai_weckd.networks.solved_head import SolvedHead, solve_head
from monai_weckd.utils.enums import INDEX, UNLABELED, DistillationKeys

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer

__all__ = ["HeadSolver", "estimate_layer", "fit_layer", "layer_inputs", "solve_finding_layer", "solve_layer"]

logger = logging.getLogger(__name__)

Scaling = tuple[torch.Tensor, torch.Tensor]
_CHUNK = 4096  # embeddings that are in memory at a time in double precision


class HeadSolver:
    """Solve the head of a stage for all its labels: a trainer's ``iteration_update``.

    The backbone is frozen, so a stage is a convex problem, see :py:func:`monai_weckd.networks.solve_head`: no learning
    rate, no epochs, no seed. One iteration solves it, and further ones of a stage change nothing. The features are
    standardized over all training items, with or without a label, and bounded where the head is a
    :py:class:`~monai_weckd.networks.StandardizedLinear`. Cross-validation, whose folds hold whole groups,
    chooses the penalty and calibrates the logits; no label is spent on either. It also measures the head on
    images of unseen groups: ``out_of_fold`` in the chain's state holds the metrics of
    :py:func:`monai_weckd.metrics.classification_metrics`, which the recorder writes to ``chain.json``. If labels
    were chosen and not drawn at random, these figures are mostly too low. ``estimate``, beside them, is the result of
    :py:func:`monai_weckd.engines.estimate.estimate_accuracy`, None once more images have a label than lack one, or
    while some class has labels in fewer than two groups.

    An image whose readers differ may have the share of each class as ``shares``: the head, its calibration and the
    estimate take them, and the metrics its most frequent class.

    The teacher of a stage chooses its labels, but a head learns nothing from an earlier head on the same features:
    there is no distillation loss.

    Where an image may show several findings, :py:func:`monai_weckd.networks.solve_findings` solves a logistic
    regression for each, cross-validation calibrates each by a scale and an offset, and chooses from which probability
    on it counts as present (:py:func:`monai_weckd.metrics.finding_thresholds`). ``estimate`` then is the result of
    :py:func:`monai_weckd.engines.estimate.estimate_findings`.

    Args:
        head_layer: module path of the head, default None: the last ``torch.nn.Linear``.
        sensitivity: share of the images with a finding that its threshold is to find, default None: the threshold with
            the largest sensitivity plus specificity.

    """

    def __init__(self, head_layer: str | None = None, *, sensitivity: float | None = None) -> None:
        self.head_layer = head_layer
        self.sensitivity = sensitivity
        self._solved: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, engine: SupervisedTrainer, batchdata: Any) -> Any:
        """Solve the head for the labels of the current stage, and return MONAI's output for all of them.

        Args:
            engine: the chain's trainer; its loader gives embeddings.
            batchdata: a batch; the solver uses all labels of the stage and not this batch alone.

        Raises:
            TypeError: When the dataset of the loader gives no embeddings.
            ValueError: When the chain averages weights.

        """
        chain = engine.state.chain
        dataset = self._dataset(engine)
        if self._solved is not None and chain.state.out_of_fold is not None:
            return self._output(engine, *self._solved)  # further iterations of a stage change nothing
        _warn_of_steps(engine)
        labels = chain.state.reveal(engine.state.stage)
        # the loss check names these images if something is not finite
        places = [place for place, item in enumerate(chain.state.items) if item["id"] in labels]
        items = [chain.state.items[place] for place in places]
        features, target = dataset.gather(places), label_task(chain.plan).target([labels[item["id"]] for item in items])
        engine.state.batch = {INDEX: torch.tensor(places)}
        layer, groups = self._layer(engine), [item["group"] for item in items]
        scaling = fit_layer(layer, *dataset.moments())
        inputs = layer_inputs(layer, features)
        if chain.plan.findings:
            rest = sorted(set(range(len(chain.state.items))).difference(places))
            pool = (layer_inputs(layer, dataset.gather(part)) for part in _parts(rest))
            found, given = self._solve_findings(layer, inputs, target, groups, scaling, pool)
            chain.state.keep_out_of_fold(found, dict(zip((item["id"] for item in items), given, strict=True)))
            self._solved = features, target
            return self._output(engine, features, target)
        wanted = shared_target(target, items, layer.out_features)
        head, temperature = solve_layer(layer, inputs, wanted, groups, scaling)
        known = ~head.out_of_fold.isnan().any(dim=1)
        held_out, told = _finite(head.out_of_fold[known]), target[known]
        found = _metrics(held_out / temperature, told, head.penalty)
        whole = bool(known.all()) and len(target.unique()) == len(chain.plan.classes)
        others = sorted(set(range(len(chain.state.items))).difference(places))
        found["estimate"] = None
        if whole and len(others) >= len(places):
            parts = _parts(others)
            unseen = (layer_inputs(layer, dataset.gather(part)) for part in parts)
            names = ([chain.state.items[place]["group"] for place in part] for part in parts)
            labeled = inputs, wanted, groups
            found["estimate"] = estimate_layer(head, labeled, zip(unseen, names, strict=True), scaling)
        rows = torch.softmax(_finite(head.out_of_fold) / temperature, dim=1).tolist()
        given = [row if seen else None for row, seen in zip(rows, known.tolist(), strict=True)]
        chain.state.keep_out_of_fold(found, dict(zip((item["id"] for item in items), given, strict=True)))
        self._solved = features, target
        return self._output(engine, features, target)

    def _solve_findings(
        self,
        layer: torch.nn.Linear,
        inputs: torch.Tensor,
        target: torch.Tensor,
        groups: Sequence[str],
        scaling: Scaling,
        others: Iterable[torch.Tensor],
    ) -> tuple[dict[str, Any], list[Any]]:
        """Set the layer, and return its metrics on held out labels and their probabilities, None where unknown."""
        head, calibration = solve_finding_layer(layer, inputs, target, groups, scaling)
        judged = ~head.out_of_fold.isnan()
        probabilities = torch.sigmoid(calibration.of_logits(head.out_of_fold)).nan_to_num().numpy()
        told = target.where(judged, torch.full_like(target, UNLABELED)).numpy()
        thresholds = finding_thresholds(probabilities, told, sensitivity=self.sensitivity)
        found = {
            "labels": int(judged.any(dim=1).sum()),
            "penalty": head.penalty,
            **finding_metrics(probabilities, told, thresholds),
            "estimate": estimate_findings(
                probabilities, told, thresholds, groups, weights=_represented(inputs, others, scaling).numpy()
            ),
        }
        rows: list[Any] = [
            [value if seen else None for value, seen in zip(*row, strict=True)]
            for row in zip(probabilities.tolist(), judged.tolist(), strict=True)
        ]
        return found, rows

    def _dataset(self, engine: SupervisedTrainer) -> EmbeddingDataset:
        dataset = getattr(engine.data_loader, "dataset", None)
        if not isinstance(dataset, EmbeddingDataset):
            raise TypeError(
                f"train_data_loader: expected a dataset of embeddings, got {type(dataset).__name__}. "
                "Pass backbone.embed(dataset) of a FrozenBackbone."
            )
        if engine.state.chain.options.averaging:
            raise ValueError("averaging: expected 0 with a solved head, got another. Pass averaging=0.")
        return dataset

    def _layer(self, engine: SupervisedTrainer) -> torch.nn.Linear:
        network = unwrap(engine.network)
        layer = find_module(network, find_head(network, self.head_layer))
        if not isinstance(layer, torch.nn.Linear) or layer.bias is None:
            raise TypeError(
                f"head_layer: expected a torch.nn.Linear with a bias, got {layer}. Name the classification head."
            )
        return layer

    def _output(self, engine: SupervisedTrainer, features: torch.Tensor, target: torch.Tensor) -> Any:
        device = engine.state.device
        features, target, zero = features.to(device), target.to(device), torch.zeros((), device=device)
        output: dict[str, Any] = {CommonKeys.IMAGE: features, CommonKeys.LABEL: target}
        engine.state.output = output
        with torch.no_grad():
            output[CommonKeys.PRED] = engine.inferer(features, engine.network)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        loss = label_task(engine.state.chain.plan).loss(output[CommonKeys.PRED], target)
        output[CommonKeys.LOSS] = output[DistillationKeys.TASK_LOSS] = loss
        output[DistillationKeys.DISTILLATION_LOSS] = output[DistillationKeys.ATTENTION_LOSS] = zero
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output  # a handler of the last event may have decollated it


def _warn_of_steps(engine: SupervisedTrainer) -> None:
    steps = engine.state.stage_epochs * engine.state.epoch_length
    if steps > 1:
        logger.warning(
            "stage %d has %d iterations, but a head is solved in one; pass max_epochs=num_stages and epoch_length=1",
            engine.state.stage,
            steps,
        )


def fit_layer(layer: torch.nn.Linear, mean: torch.Tensor, deviation: torch.Tensor) -> Scaling:
    """Set mean and scale of a :py:class:`~monai_weckd.networks.StandardizedLinear`, and return the remaining scaling.

    Args:
        layer: the layer.
        mean: mean of each feature over all images, (D,).
        deviation: standard deviation of each feature, (D,).

    Returns:
        Mean and standard deviation by which :py:func:`layer_inputs` are still to be standardized: 0 and 1 for a layer
        that standardizes itself.

    """
    if not isinstance(layer, StandardizedLinear):
        return mean, deviation
    layer.fit(mean, deviation)
    return torch.zeros_like(mean), torch.ones_like(deviation)


def layer_inputs(layer: torch.nn.Linear, features: torch.Tensor) -> torch.Tensor:
    """Return what the weights of a layer are multiplied with, (N, D), on the CPU.

    Args:
        layer: the layer.
        features: (N, D).

    """
    if isinstance(layer, StandardizedLinear):
        return layer.standardize(features.to(layer.mean.device)).cpu()
    return features


def solve_layer(
    layer: torch.nn.Linear, inputs: torch.Tensor, target: torch.Tensor, groups: Sequence[str], scaling: Scaling
) -> tuple[SolvedHead, float]:
    """Solve a layer for labels, and calibrate it by those that cross-validation holds out.

    Args:
        layer: its weights are set.
        inputs: results of :py:func:`layer_inputs` for the labeled images, (N, D).
        target: class of each, (N,), or the share of each class in it, (N, C).
        groups: group of each, N names.
        scaling: result of :py:func:`fit_layer`.

    Returns:
        The head before calibration, and the temperature.

    """
    head = solve_head(inputs, target, groups, num_classes=layer.out_features, mean=scaling[0], scale=scaling[1])
    known, temperature = ~head.out_of_fold.isnan().any(dim=1), 1.0
    if known.any():
        rows, classes, shares = in_parts(target[known])
        temperature = float(fit_temperatures(_finite(head.out_of_fold[known])[rows], classes, shares[None]))
    with torch.no_grad():
        layer.weight.copy_(head.weight / temperature)
        layer.bias.copy_(head.bias / temperature)
    return head, temperature


def solve_finding_layer(
    layer: torch.nn.Linear, inputs: torch.Tensor, target: torch.Tensor, groups: Sequence[str], scaling: Scaling
) -> tuple[SolvedHead, Scalings]:
    """Solve a layer for findings, and calibrate each by the labels that cross-validation holds out.

    The head weighs present and absent alike; where a finding cannot be held out with both outcomes, its offset is the
    logarithm of how often it is present by how often it is absent, with one of each added.

    Args:
        layer: its weights are set.
        inputs: results of :py:func:`layer_inputs` for the labeled images, (N, D).
        target: (N, F), 1, 0, and -1 where a finding is unknown.
        groups: group of each image, N names.
        scaling: result of :py:func:`fit_layer`.

    Returns:
        The head before calibration, and the calibration.

    """
    head = solve_findings(inputs, target, groups, mean=scaling[0], scale=scaling[1])
    scale, offset = fit_scalings(head.out_of_fold, target)
    judged = target.where(~head.out_of_fold.isnan(), torch.full_like(target, UNLABELED))
    held_out = (judged == 1).any(dim=0) & (judged == 0).any(dim=0)
    present, absent = (target == 1).sum(dim=0), (target == 0).sum(dim=0)
    balanced = (present > 0) & (absent > 0) & ~held_out
    offset = ((present + 1) / (absent + 1)).log().to(offset).where(balanced, offset)
    with torch.no_grad():
        layer.weight.copy_(head.weight * scale[:, None])
        layer.bias.copy_(head.bias * scale + offset)
    return head, Scalings(scale, offset)


def _finite(logs: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities without minus infinity, which a class without a label has."""
    return logs.clamp(min=-1e4)


def _metrics(logs: torch.Tensor, target: torch.Tensor, penalty: float) -> dict[str, Any]:
    """Return the metrics of held out labels, with their number and the penalty."""
    found: dict[str, Any] = {"labels": len(target), "penalty": penalty}
    if len(target):
        found.update(classification_metrics(torch.softmax(logs, dim=1).numpy(), np.asarray(target)))
    return found


def estimate_layer(
    head: SolvedHead,
    labeled: tuple[torch.Tensor, torch.Tensor, Sequence[str]],
    others: Iterable[tuple[torch.Tensor, Sequence[str]]],
    scaling: Scaling,
    *,
    share: float = 1.0,
) -> dict[str, Any]:
    """Return the estimate by images without a label, see :py:func:`monai_weckd.engines.estimate.estimate_accuracy`.

    Args:
        head: the head before calibration.
        labeled: inputs, classes or shares of classes, and groups of the labeled images.
        others: inputs and groups of parts of the others.
        scaling: result of :py:func:`fit_layer`.
        share: how many images each of the others stands for, default 1.

    """
    inputs, target, groups = labeled
    points, weights = _standard(inputs, scaling), torch.ones(len(target), dtype=torch.float64)
    logits: list[torch.Tensor] = []
    names: list[str] = []
    for part, its_names in others:
        weights += share * represented(points, _standard(part, scaling))
        logits.append(head.unseen_logits(part, its_names))
        names += its_names
    rows, classes, shares = in_parts(target)
    return estimate_accuracy(
        _finite(head.out_of_fold)[rows],
        classes,
        [groups[row] for row in rows.tolist()],
        torch.cat(logits),
        names,
        weights=weights[rows] * shares,
    )


def _represented(inputs: torch.Tensor, others: Iterable[torch.Tensor], scaling: Scaling) -> torch.Tensor:
    """Return how many images each labeled one stands for, (N,), itself among them."""
    points = _standard(inputs, scaling)
    return sum((represented(points, _standard(part, scaling)) for part in others), torch.ones(len(inputs)))


def _parts(places: Sequence[int]) -> list[Sequence[int]]:
    return [places[start : start + _CHUNK] for start in range(0, len(places), _CHUNK)]


def _standard(inputs: torch.Tensor, scaling: Scaling) -> torch.Tensor:
    mean, deviation = (values.to(inputs) for values in scaling)
    return (inputs - mean) / torch.where(deviation > 0, deviation, torch.inf)  # a constant feature tells nothing
