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


from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.bundle import ComponentLocator, ConfigParser, ConfigWorkflow
from monai.utils import CommonKeys

from monai_weckd.bundle.config import training_files
from monai_weckd.data.datalist import Datalist
from monai_weckd.networks.features import extract
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.plan.splits import divide_epochs
from monai_weckd.utils.errors import one_error
from monai_weckd.utils.messages import nearest

__all__ = ["AnnotatedBundle", "ImagePredictor", "only_classes"]

# handlers that a stage at the screen does not need: they talk, measure costs, or keep what lasts seconds
_NOT_NEEDED = ("ChainCheckpoint", "ChainProgressBar", "CostReporter", "TensorBoardStatsHandler")
_NOT_IN_A_SERVER = ("refuse_unused_keys", "show_cause_last")


class AnnotatedBundle:
    """The training of a bundle, one stage at a time, and its network on single images, as ``train.json`` has them.

    Args:
        bundle: the bundle's folder.
        dataset_dir: the folder of the images.
        overlays: configuration files that are merged into ``configs/train.json``, in their order: paths, or names of
            files in ``configs``.
        changes: what to set in the configuration, by key.
        classes: class names in the order of their indices, default None: those of the bundle's ``metadata.json``.
        cache_dir: folder for decoded images and embeddings where the configuration names none.

    Attributes:
        root: the bundle's folder.
        classes: class names in the order of their indices.
        spatial_dims: 2 for pictures, 3 for volumes.
        tolerance: of the gate, None where neither ``changes`` nor the configuration has one: then it is what one of n
            validation images is worth, 1 / n.

    Raises:
        ValueError: When a file or key is missing, or a setting is of no use for a chain that grows by stages.

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
        self.root = Path(bundle)
        self.files = list(map(str, training_files(bundle, overlays)))
        metadata_file = self.root / "configs" / "metadata.json"
        if not metadata_file.is_file():
            raise ValueError(f"bundle: expected configs/metadata.json in {str(bundle)!r}, got none. Pass a bundle.")
        metadata = ConfigParser.load_config_file(str(metadata_file))
        formats = metadata["network_data_format"]
        self.spatial_dims = len(formats["inputs"]["image"]["spatial_shape"])
        own = formats["outputs"]["pred"]["channel_def"].values()
        self.classes = tuple(str(name) for name in (own if classes is None else classes))
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise ValueError(
                f"classes: expected two or more, each once, got {list(self.classes)}. Name what is to be told apart."
            )
        places = {"bundle_root": str(self.root), "dataset_dir": str(dataset_dir)}
        self.overrides: dict[str, Any] = {**(changes or {}), **places}
        # made once, here: it goes through the imported modules, and fails if another thread imports meanwhile
        self._locator = ComponentLocator()
        self._locator.get_component_module_name("")
        parser = self._parser()
        if parser["cache_dir"] is None:
            parser["cache_dir"] = self.overrides["cache_dir"] = str(cache_dir)
        with one_error():
            self.policy = str(parser.get_parsed_content("shard_policy"))
            self.seed = int(parser.get_parsed_content("seed"))
            tolerance = float(parser.get_parsed_content("tolerance"))
            self.stage_epochs = divide_epochs(
                parser.get_parsed_content("max_epochs"),
                parser.get_parsed_content("num_stages"),
                parser.get_parsed_content("stage_epochs"),
            )
            _check(parser, self.policy)
        # asked for by name, 0 is meant
        self.tolerance = tolerance if tolerance or "tolerance" in (changes or {}) else None

    def epochs_of(self, stage: int) -> int:
        """Return the epochs of a stage: those of the configured chain's, and of its last one for all that follow.

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
            plan: the plan, whose shards are given.
            output_dir: an existing, empty folder.
            previous: output folder of the chain that the stage is added to, default None: it is the first.
            earlier_epochs: epochs of the stages in that chain.
            progress: called after each epoch with its number within the stage and the stage's epochs.

        """
        epochs = [*earlier_epochs, self.epochs_of(plan.settings.num_stages)]
        changes: dict[str, Any] = {
            "output_dir": os.fspath(output_dir),
            "num_stages": len(epochs),
            "stage_epochs": epochs,
            "max_epochs": sum(epochs),
        }
        if self.tolerance is None:
            changes["tolerance"] = 1 / len(plan.val)
        if not plan.pool(plan.settings.num_stages):
            changes["pool_ratio"] = 0  # every image has a label
        with one_error():
            workflow = self._workflow(items, plan, changes, previous)
            workflow.initialize()
            if progress is not None:
                report = progress  # mypy
                engine = workflow.parser.get_parsed_content("train#trainer")
                engine.add_event_handler(
                    Events.EPOCH_COMPLETED, lambda one: report(one.state.stage_epoch, one.state.stage_epochs)
                )
            workflow.run()
        del workflow
        gc.collect()  # engines and handlers refer to each other

    def embed(
        self, items: Sequence[Mapping[str, Any]], students: Sequence[str | os.PathLike[str]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of items, and the class probabilities by each of several students.

        Images are read and cached as in training, without augmentation. With a frozen backbone, and an image that was
        seen before, only the head is computed.

        Args:
            items: what to look at, N items.
            students: files of the students, the last of which gives the features; if there is none, the network as it
                begins does, and there are no probabilities.

        Returns:
            Features, (N, D), and probabilities, (number of students, N, C).

        """
        plan = ChainPlan(
            classes=self.classes,
            train=tuple(item["id"] for item in items),
            settings=PlanSettings(
                seed=self.seed,
                num_stages=1,
                label_fraction=1.0,
                policy=self.policy,
                shard_by="item",
                stratify=False,
                selection="given",
            ),
        )
        with one_error():
            parser = self._workflow(items, plan, {}, None).parser
            parser.get_parsed_content("imports")
            network = parser.get_parsed_content("network")
            loader, inferer = (parser.get_parsed_content(f"train#{name}") for name in ("dataloader", "inferer"))
            head_layer = parser.get_parsed_content("head_layer")
            probabilities = []
            for number in range(max(1, len(students))):
                if students:
                    path = students[number]
                    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
                features, logits = extract(network, loader.dataset, head_layer=head_layer, inferer=inferer)
                probabilities.append(torch.softmax(logits, dim=1).numpy())
        shape = (len(students), len(items), len(self.classes))
        return features.numpy(), np.stack(probabilities)[: len(students)].reshape(shape)

    def predictor(self, student: str | os.PathLike[str]) -> ImagePredictor:
        """Return what classifies single images.

        Args:
            student: file with the student's weights.

        """
        parser = self._parser()
        # the data list is not there: all that the network needs of it are the classes
        parser["class_names"] = list(self.classes)
        with one_error():
            parser.get_parsed_content("imports")
            network = parser.get_parsed_content("network")
            preprocessing = parser.get_parsed_content("validate#preprocessing")
        network.load_state_dict(torch.load(student, map_location="cpu", weights_only=True))
        return ImagePredictor(network.eval(), preprocessing, self.spatial_dims)

    def _parser(self) -> ConfigParser:
        parser = ConfigParser()
        parser.locator = self._locator
        parser.read_config(self.files)
        for key, value in self.overrides.items():
            if key not in parser:
                raise ValueError(
                    f"set: expected a key of {self.files[0]}, got {key!r}. {nearest(key, list(parser.get()))}"
                )
            parser[key] = value
        return parser

    def _workflow(
        self,
        items: Sequence[Mapping[str, Any]],
        plan: ChainPlan,
        changes: Mapping[str, Any],
        previous: str | os.PathLike[str] | None,
    ) -> ConfigWorkflow:
        workflow = ConfigWorkflow(
            self.files, workflow_type="train", logging_file=False, **{**self.overrides, **changes}
        )
        workflow.parser.locator = self._locator
        config = workflow.parser.get()
        config.update(datalist=Datalist([dict(item) for item in items], self.classes), plan=plan)
        config["initialize"] = [step for step in config["initialize"] if not any(n in step for n in _NOT_IN_A_SERVER)]
        config["run"] = ["$@train#trainer.run()"]
        config.pop("test", None)
        config["train"]["handlers"] = list(_needed(config["train"]["handlers"]))
        if previous is not None:
            handler = {"_target_": "monai_weckd.handlers.ChainContinuation", "previous": os.fspath(previous)}
            config["train"]["handlers"].append(handler)
        _measure_present(config["validate"], plan, items)
        workflow.parser.set(config)
        return workflow


class ImagePredictor:
    """Classify single images with a student.

    Args:
        network: the student, in eval mode.
        preprocessing: makes of ``{"image": path}`` what the network takes.
        spatial_dims: spatial dimensions of an image.

    """

    def __init__(self, network: torch.nn.Module, preprocessing: Callable, spatial_dims: int) -> None:
        self.network = network
        self.preprocessing = preprocessing
        self.spatial_dims = spatial_dims
        self.device = next(network.parameters()).device

    @torch.inference_mode()
    def predict(self, path: str) -> np.ndarray:
        """Return the class probabilities of an image, (C,).

        Args:
            path: a file, or the folder of a DICOM series.

        Raises:
            ValueError: When the image cannot be read, or has other dimensions than the network takes.

        """
        image = torch.as_tensor(self._load(path)).as_subclass(torch.Tensor)
        if image.ndim != self.spatial_dims + 1:
            raise ValueError(
                f"image: expected {self.spatial_dims} spatial dimensions, got {image.ndim - 1}. Pass another image."
            )
        probabilities: np.ndarray = (
            torch.softmax(self.network(image[None].to(self.device)).float(), dim=1)[0].cpu().numpy()
        )
        if not np.isfinite(probabilities).all():
            raise ValueError("image: expected finite probabilities, got others. Look for NaN in the image.")
        return probabilities

    def _load(self, path: str) -> Any:
        try:
            return self.preprocessing({CommonKeys.IMAGE: path})[CommonKeys.IMAGE]
        except Exception as error:  # of damaged bytes, a decoder may raise anything
            while error.__cause__ is not None and not isinstance(error, (ValueError, OSError)):
                error = error.__cause__  # type: ignore[assignment]
            reason = " ".join(str(error).split())
            raise ValueError(f"image: expected one that can be read, got {reason}") from error


def only_classes(output: Sequence[torch.Tensor], places: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """Return the columns of some classes of predictions and labels, for a metric that needs items of each class.

    Args:
        output: probabilities and one-hot labels, (B, C) each.
        places: indices of the classes.

    """
    return tuple(part[:, list(places)] for part in output)


def _needed(handlers: Sequence[Any]) -> Any:
    for handler in handlers:
        name = handler["_target_"].rpartition(".")[2] if isinstance(handler, dict) else ""
        if name == "ChainRecorder":
            handler = {**handler, "test_data_loader": None, "target_layer": None}
        if name not in _NOT_NEEDED:
            yield handler


def _measure_present(config: dict[str, Any], plan: ChainPlan, items: Sequence[Mapping[str, Any]]) -> None:
    """Let an area under the curve look at the classes that validation has: of another one there is none."""
    validating = set(plan.val)
    places = sorted({item["label"] for item in items if item["id"] in validating})
    if len(places) == len(plan.classes):
        return
    for metric in config["key_metric"].values():
        if metric["_target_"].rpartition(".")[2] == "ROCAUC":
            inner = metric["output_transform"].removeprefix("$")
            metric["output_transform"] = (
                f"$lambda output: monai_weckd.annotation.only_classes(({inner})(output), {places})"
            )


def _check(parser: ConfigParser, policy: str) -> None:
    if policy not in ("cumulative", "disjoint"):
        raise ValueError(
            f"shard_policy: expected 'cumulative' or 'disjoint', got {policy!r}. A stage needs labels of its own."
        )
    if parser.get_parsed_content("unfreeze_last"):
        raise ValueError(
            "unfreeze_last: expected False, got True: each stage is the last when it comes. "
            "Train the final model with monai.bundle, on the labels that were given."
        )
