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

"""Train a bundle one stage at a time as labels come in, and classify images with its students."""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from threading import BoundedSemaphore, Lock
from typing import Any

import numpy as np
import torch
from ignite.engine import Events

from monai_weckd.annotation.flights import Flights
from monai_weckd.annotation.live import LiveHead
from monai_weckd.annotation.parts import SharedParts
from monai_weckd.bundle.config import BundleConfig
from monai_weckd.data.embedding import pooled
from monai_weckd.data.item_level import STEP_BY_STEP, check_item_level, images_in
from monai_weckd.data.prepared import Preparation, load_image
from monai_weckd.data.verify import find_faults
from monai_weckd.engines.label_task import task_of
from monai_weckd.engines.solver import HeadSolver
from monai_weckd.handlers.continuation import ChainContinuation
from monai_weckd.inferers import HeadInferer
from monai_weckd.networks.features import HeadHook, extract, find_head, find_module
from monai_weckd.networks.weights import load_weights
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.plan.splits import divide_epochs
from monai_weckd.predict.model import class_probabilities, probability_fault
from monai_weckd.utils.enums import IMAGES
from monai_weckd.utils.literals import literal

__all__ = ["AnnotatedBundle", "ImagePredictor"]


class AnnotatedBundle:
    """Train a bundle one stage at a time, and apply its network to images, as ``train.json`` configures it.

    Args:
        bundle: the bundle's folder.
        dataset_dir: the folder of the images.
        overlays: configuration files to merge into ``configs/train.json``, in order: paths, or names of files in
            ``configs``.
        changes: values to set in the configuration, by key.
        classes: class names in the order of their indices, default None: those of the bundle's ``metadata.json``.
        cache_dir: folder for decoded images and embeddings if the configuration names none.

    Attributes:
        root: the bundle's folder.
        kind: names of the classes or findings.
        spatial_dims: 2 for pictures, 3 for volumes.
        item_level: what has a label: "image", or all images of a "series", "study" or "patient".
        policy: labels that a stage trains on, "cumulative" or "disjoint".
        seed: seed of the chain.
        tolerance: tolerance of the gate; None means 1 / n for n validation images.

    Raises:
        ValueError: When a file or key is missing, or a setting does not suit a chain that grows stage by stage.

    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        dataset_dir: str | os.PathLike[str],
        *,
        overlays: Sequence[str | os.PathLike[str]] = (),
        changes: Mapping[str, Any] | None = None,
        classes: Sequence[str] | None = None,
        cache_dir: str | os.PathLike[str],
    ) -> None:
        changes = {**(changes or {}), "dataset_dir": literal(str(dataset_dir))}
        self.config = config = BundleConfig(bundle, overlays=overlays, changes=changes)
        self.item_level = config.item_level
        check_item_level(self.item_level)
        if self.item_level != "image" and not config.solves_heads:
            raise ValueError(STEP_BY_STEP)
        self.root, self.spatial_dims = config.root, config.spatial_dims
        names = config.class_names if classes is None else tuple(map(str, classes))
        self.kind = LabelKind(_distinct(names, findings=config.has_findings), config.has_findings)
        if config["cache_dir"] is None:
            config.set("cache_dir", literal(str(cache_dir)))
        # a stage lasts seconds: the session shows its progress, and an interrupted stage is simply trained again
        config.leave_out("train#monitors", "train#checkpoint", "test")
        for key in ("train#recorder#test_data_loader", "train#recorder#target_layer"):
            config.set(key, None)
        chain, settings = config.value("chain"), config.value("plan#settings")
        self.policy, self.seed = _own_labels(settings.policy), settings.seed
        self.tolerance = chain.tolerance if "chain#tolerance" in config else None
        self.stage_epochs = divide_epochs(config.value("max_epochs"), settings.num_stages, chain.stage_epochs)
        self._given = PlanSettings(
            seed=self.seed, num_stages=1, label_fraction=1.0, policy=self.policy, stratify=False, selection="given"
        )
        self._parts = SharedParts(config, self.kind, self._given, item_level=self.item_level)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or of the findings, in the order of their indices."""
        return self.kind.names

    def find_faults(self, items: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Return the ids of the items that training cannot use, each with its fault; see ``data.verify.find_faults``.

        Args:
            items: dictionaries with ``id`` and ``image``, or ``images``, of which one suffices.

        """
        return self.examine(items)[1]

    def examine(self, items: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
        """Return the items that training can use, with the images that it can use, and the faults of the others.

        Args:
            items: as for :py:meth:`find_faults`.

        """
        if self.item_level == "image":
            faults = find_faults(items, self._preparation)
            return [item for item in items if item["id"] not in faults], faults
        images = [{"id": path, "image": path} for item in items for path in images_in(item)]
        bad = find_faults(images, self._preparation)
        usable, faults = [], {}
        for item in items:
            paths = images_in(item)
            if good := tuple(path for path in paths if path not in bad):
                usable.append(item if len(good) == len(paths) else {**item, IMAGES: good})
            else:
                faults[item["id"]] = f"no image can be read, first {os.path.basename(paths[0])!r}: {bad[paths[0]]}"
        return usable, faults

    @cached_property
    def _preparation(self) -> Preparation:
        return Preparation(self._parts.preprocessing, self.spatial_dims)

    def with_names(self, names: Sequence[str]) -> AnnotatedBundle:
        """Return the bundle with further classes or findings; this one stays as it is.

        Args:
            names: all names, those of the bundle first.

        """
        if tuple(names) == self.kind.names:
            return self
        other = copy.copy(self)
        other.kind = LabelKind(_distinct(tuple(names), findings=self.kind.findings), self.kind.findings)
        other._parts = SharedParts(self.config, other.kind, self._given, item_level=self.item_level)
        return other

    def check_growth(self) -> None:
        """Refuse a head that cannot have further outputs.

        Raises:
            ValueError: When it is no linear layer.

        """
        layer = find_module(self._parts.new_network(), self.head)
        if not isinstance(layer, torch.nn.Linear):
            raise ValueError(
                f"class: expected a student whose head {self.head!r} is linear, got {type(layer).__name__}. "
                "Begin a chain with all classes in another output folder."
            )

    def epochs_of(self, stage: int) -> int:
        """Return the epochs of a stage; stages beyond the configured chain take those of its last stage.

        Args:
            stage: stage number, from 1.

        """
        return self.stage_epochs[min(stage, len(self.stage_epochs)) - 1]

    def train(
        self,
        items: Sequence[Mapping[str, Any]],
        plan: ChainPlan,
        output_dir: str | os.PathLike[str],
        *,
        previous: str | os.PathLike[str] | None = None,
        earlier_epochs: Sequence[int] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Train the last stage of a plan.

        Args:
            items: the items of the plan, with labels.
            plan: the plan, with given shards.
            output_dir: an existing, empty folder.
            previous: output folder of the chain to extend, default None: this is the first stage.
            earlier_epochs: epochs of the stages in that chain.
            progress: called after each epoch with its number within the stage and the stage's epochs.

        """
        stage = plan.settings.num_stages
        epochs = [*earlier_epochs, self.epochs_of(stage)]
        changes: dict[str, Any] = {
            "output_dir": literal(os.fspath(output_dir)),
            "num_stages": len(epochs),
            "chain#stage_epochs": epochs,
            "max_epochs": sum(epochs),
        }
        if self.tolerance is None and plan.val:
            changes["chain#tolerance"] = 1 / len(plan.val)
        if not plan.pool(stage):
            changes["chain#pool_ratio"] = 0  # every image has a label
        trainer = self._parts.config(items, plan, changes).trainer()
        if previous is not None:
            ChainContinuation(previous).attach(trainer)
        if progress is not None:
            trainer.add_event_handler(
                Events.EPOCH_COMPLETED, lambda engine: progress(engine.state.stage_epoch, engine.state.stage_epochs)
            )
        trainer.run()
        del trainer
        gc.collect()  # engines and handlers refer to each other

    def embed(
        self, items: Sequence[Mapping[str, Any]], students: Sequence[str | os.PathLike[str]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of items, and their class probabilities by each of several students.

        Images are read and cached as in training, without augmentation. With a frozen backbone, only the head is
        computed for images seen before.

        Args:
            items: the N items.
            students: files of the students. The last one gives the features; without students, the initial network
                gives them, and there are no probabilities.

        Returns:
            Features, (N, D), and probabilities, (number of students, N, C).

        """
        dataset, head_layer = self._parts.dataset([dict(item) for item in items]), self.config.value("chain").head_layer
        known: Sequence[str | os.PathLike[str] | None] = students or [None]
        found = [self._outputs(self._parts.load(student), dataset, head_layer) for student in known]
        task = task_of(self.kind)
        features, probabilities = found[-1][0], [task.probabilities(logits).numpy() for _, logits in found]
        shape = (len(students), len(items), len(self.classes))
        return features.numpy(), np.stack(probabilities)[: len(students)].reshape(shape)

    def _outputs(
        self, network: torch.nn.Module, dataset: Any, head_layer: str | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features and logits of a dataset."""
        features = self._parts.embeddings(dataset)
        if features is None:
            return extract(network, dataset, head_layer=head_layer)
        return features, _head_logits(network, features, head_layer)

    def classify(self, features: np.ndarray, student: str | os.PathLike[str]) -> np.ndarray:
        """Return the probabilities that a student's head gives to features, (N, C).

        Args:
            features: features of :py:meth:`embed`, (N, D).
            student: file with the student's weights.

        """
        network = self._parts.new_network()
        load_weights(network, student, name="student")
        logits = _head_logits(network, torch.from_numpy(features), self.config.value("chain").head_layer)
        found: np.ndarray = task_of(self.kind).probabilities(logits).numpy()
        return found

    def live_head(self, ids: Sequence[str], features: np.ndarray) -> LiveHead | None:
        """Return a :py:class:`~monai_weckd.annotation.live.LiveHead` to solve after each answer.

        None if the bundle's stages solve no head.

        Args:
            ids: ids of the N images.
            features: features of :py:meth:`embed`, (N, D).

        """
        place = "train#trainer#iteration_update"
        if place not in self.config or not isinstance(solver := self.config.value(place), HeadSolver):
            return None
        network = self._parts.new_network()
        layer = copy.deepcopy(find_module(network, find_head(network, solver.head_layer))).cpu()
        return LiveHead(layer, ids, features, self.kind) if isinstance(layer, torch.nn.Linear) else None

    @property
    def head(self) -> str:
        """Module path of the network's head."""
        return find_head(self._parts.new_network(), self.config.value("chain").head_layer)

    def predictor(self, student: str | os.PathLike[str]) -> ImagePredictor:
        """Return a predictor of single images.

        Args:
            student: file with the student's weights.

        """
        network = self._parts.new_network()
        load_weights(network, student, name="student")
        probabilities = task_of(self.kind).probabilities
        return ImagePredictor(network.eval(), self._parts.preprocessing, self.spatial_dims, probabilities)


class ImagePredictor:
    """Classify images, or items of several, with a student; several threads may ask at once.

    Args:
        network: the student, in eval mode.
        preprocessing: maps ``{"image": path}`` to a dictionary with the network's input as ``image``.
        spatial_dims: spatial dimensions of an image.
        postprocessing: makes probabilities of logits, (B, C) each, default None: softmax.

    """

    def __init__(
        self,
        network: torch.nn.Module,
        preprocessing: Callable,
        spatial_dims: int,
        postprocessing: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.network = network
        self.preprocessing = preprocessing
        self.spatial_dims = spatial_dims
        self.postprocessing = postprocessing
        self.device = _device(network)
        # hooks in a network would mix the layers' outputs of two images at once
        self._lock = Lock()
        # concurrent requests for one image decode it once, and no more than two images are decoded at a time
        self._flights: Flights[np.ndarray] = Flights(kept=0, few=BoundedSemaphore(2))

    def _probabilities(self, path: str) -> np.ndarray:
        image = load_image(self.preprocessing, path, self.spatial_dims)
        with self._lock:
            batch = image[None].to(self.device)
            found: np.ndarray = class_probabilities(self.network, batch, postprocessing=self.postprocessing)[0]
        return found

    def _features(self, path: str) -> np.ndarray:
        image = load_image(self.preprocessing, path, self.spatial_dims)
        with self._lock, HeadHook(self.network) as hook:
            class_probabilities(self.network, image[None].to(self.device))
            found: np.ndarray = hook.features.float().cpu().numpy()
        return found

    def _of_several(self, paths: Sequence[str]) -> np.ndarray:
        """Return the class probabilities by the mean of the features of images, without those that cannot be read."""
        rows: list[np.ndarray] = []
        faults: list[ValueError] = []
        for path in paths:
            try:
                rows.append(self._features(path))
            except ValueError as error:
                faults.append(error)
        if not rows:
            raise faults[0]
        features = torch.from_numpy(pooled(np.concatenate(rows), np.arange(len(rows)), [len(rows)])).to(self.device)
        options: Any = {"inferer": HeadInferer(), "postprocessing": self.postprocessing}
        with self._lock:
            found: np.ndarray = class_probabilities(self.network, features, **options)[0]
        return found

    def predict(self, path: str, *others: str) -> np.ndarray:
        """Return the class probabilities of an image, (C,), or of an item of several.

        Args:
            path: a file, or the folder of a DICOM series.
            others: further images of the item; those that cannot be read are left out.

        Raises:
            ValueError: When no image can be read, or has the number of dimensions that the network expects, or the
                probabilities are not finite.

        """
        paths = (path, *others)
        probabilities = self._flights.get(
            "\0".join(paths), lambda: self._of_several(paths) if others else self._probabilities(path)
        )
        fault = probability_fault(path, probabilities)
        if fault:
            raise ValueError(fault)
        return probabilities


def _device(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device


@torch.no_grad()
def _head_logits(network: torch.nn.Module, features: torch.Tensor, head_layer: str | None) -> torch.Tensor:
    logits: torch.Tensor = find_module(network, find_head(network, head_layer))(features.to(_device(network)))
    return logits.float().cpu()


def _distinct(classes: tuple[str, ...], *, findings: bool) -> tuple[str, ...]:
    for name in classes:
        if not name.strip():
            raise ValueError(f"classes: expected names, got {name!r}. Name the classes to distinguish.")
    if findings:
        if not classes or len(set(classes)) < len(classes) or any("|" in name for name in classes):
            raise ValueError(
                f"classes: expected findings, each once and without '|', got {list(classes)}. Name what to look for."
            )
        return classes
    if len(set(classes)) < max(2, len(classes)):
        raise ValueError(
            f"classes: expected two or more, each once, got {list(classes)}. Name the classes to distinguish."
        )
    return classes


def _own_labels(policy: str) -> str:
    if policy == "shared":
        raise ValueError(
            f"policy: expected 'cumulative' or 'disjoint', got {policy!r}. A stage needs labels of its own."
        )
    return policy
