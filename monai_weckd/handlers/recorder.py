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

"""Record what a chain did: plan, students, metrics, curves and predictions."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from torch.utils.data import DataLoader

from monai_weckd.data.embedding import EmbeddingDataset, wrapped_images
from monai_weckd.data.item_level import has_several
from monai_weckd.engines.events import ChainEvents
from monai_weckd.engines.label_task import label_task
from monai_weckd.handlers.kind import kind_reference
from monai_weckd.handlers.losses import LOSS_KEYS, losses_from_output
from monai_weckd.networks.features import origin_of, unwrap
from monai_weckd.networks.freezing import predict_logits
from monai_weckd.networks.outputs import taking
from monai_weckd.plan.label_kind import has_unknown, plain_label
from monai_weckd.plan.oracle import LabelOracle
from monai_weckd.utils.enums import IMAGES, DistillationKeys
from monai_weckd.utils.files import link_or_copy, state_bytes, write_atomically
from monai_weckd.utils.records import KIND, OUT_OF_FOLD, sealed_json
from monai_weckd.utils.tables import table_text
from monai_weckd.visualize import save_error_gallery
from monai_weckd.visualize.gallery import layer_fault

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer

__all__ = ["ChainRecorder", "predict_probabilities"]

logger = logging.getLogger(__name__)


def predict_probabilities(
    network: torch.nn.Module, loader: DataLoader, device: torch.device, *, inferer: Callable | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return class probabilities, (N, C), and labels, (N,), of all items of a loader, in order; one class an item.

    Args:
        network: the classifier; its train or eval mode is restored. It is called without its wrappers, because
            DistributedDataParallel would wait for the other ranks.
        loader: batches with ``image`` and ``label``.
        device: device of the network.
        inferer: calls the network, ``(images, network) -> logits``, default None: call it directly.

    """
    logits, labels = predict_logits(network, loader, device, inferer=inferer)
    return torch.softmax(logits, dim=1).numpy(), labels.numpy()


class ChainRecorder:
    """Record a chain in files: plan, students, metrics, learning curves and predictions.

    It writes these files to ``output_dir``: ``plan.json`` and ``datalist.json`` at the start, and the plan again at the
    start of each stage; ``stage_k/model.pt``, ``chain.json`` and ``history.json`` at the end of each stage;
    ``model.pt`` (the last accepted student, a plain ``state_dict``) and ``predictions.csv`` at the end. If heads are
    solved, ``stage_k/out_of_fold.csv`` has the probabilities of each labeled item, by a head that saw no label of its
    group, and ``out_of_fold.csv`` those of the last accepted stage. With a frozen backbone, ``kind.npz`` has features
    of training images, by which ``predict`` tells whether an image is of their kind. List it last among the trainer's
    handlers, so that it records an epoch after the epoch's validation. It acts on rank 0 only.

    Where an image may show several findings, the tables have the columns ``label_<name>`` (1, 0 or nothing) and
    ``probability_<name>`` for each, and ``chain.json`` has from which probability on each counts as present.
    ``datalist.json`` leaves out images of which a finding is unknown. Where items have several images
    (:py:func:`monai_weckd.data.group_images`), ``predictions.csv`` has a row for each item, with the number of its
    ``images``, and there are neither pictures of errors nor a ``datalist.json``.

    Args:
        output_dir: an existing folder.
        evaluator: the trainer's validation engine, whose metrics go into the curves; None without validation.
        val_data_loader: validation items in fixed order, labels as integers; default None: no such figures.
        test_data_loader: test items likewise, for figures only; default None: no such figures. A loader without items
            counts as None.
        target_layer: module path for the Grad-CAM of the most confidently wrong test images (saved in ``errors``),
            default None: no such pictures. The layer is tried before the first batch: if it has no feature map, as
            in a vision transformer, a warning says why there will be no pictures.
        settings: further values to record in ``chain.json``, beside the options of chain and plan, such as the learning
            rate.
        preprocessing: transforms of each image before the network sees it, as values for JSON; default: not recorded.
            Together with the order of the classes and the digests of the students, they tell what a model is for.

    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        evaluator: SupervisedEvaluator | None,
        *,
        val_data_loader: DataLoader | None = None,
        test_data_loader: DataLoader | None = None,
        target_layer: str | None = None,
        settings: Mapping[str, Any] | None = None,
        preprocessing: Sequence[Any] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.evaluator = evaluator
        self.loaders: dict[str, Any] = {"val": val_data_loader or None, "test": test_data_loader or None}
        self.target_layer = target_layer
        self.settings = dict(settings or {})
        self.preprocessing = preprocessing
        self.thresholds: list[float | None] | None = None
        self.stages: list[dict[str, Any]] = []
        self.epochs: list[dict[str, Any]] = []

    def attach(self, engine: SupervisedTrainer) -> None:
        """Register the handler.

        Args:
            engine: the chain's trainer.

        """
        if engine.state.rank > 0:
            return
        engine.state.chain.parts["recorder"] = self
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add_losses)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(ChainEvents.STAGE_STARTED, self._begin_stage)
        engine.add_event_handler(ChainEvents.STAGE_COMPLETED, self._end_stage)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def state_dict(self) -> dict[str, Any]:
        """Return the present content of ``chain.json`` and ``history.json``."""
        return {"stages": self.stages, "epochs": self.epochs}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from earlier records.

        Args:
            state_dict: result of :py:meth:`state_dict`.

        """
        self.stages, self.epochs = list(state_dict["stages"]), list(state_dict["epochs"])

    def _begin(self, engine: SupervisedTrainer) -> None:
        self._try_layer(engine)
        if engine.state.epoch:
            return  # this run continues the chain of an earlier run
        self.stages, self.epochs = [], []
        write_atomically(self.output_dir / "plan.json", engine.state.chain.plan.to_json())
        if has_several(engine.state.chain.state.items):
            return
        # in the format of monai.data.load_decathlon_datalist, for an evaluation without this package
        lists = {
            key: [
                {"image": item["id"], "label": plain_label(item["label"])}
                for item in loader.dataset.data
                if not has_unknown(item["label"])  # MONAI's metrics know no unknown findings
            ]
            for key, loader in (("validation", self.loaders["val"]), ("test", self.loaders["test"]))
            if loader is not None
        }
        write_atomically(self.output_dir / "datalist.json", json.dumps(lists, indent=1) + "\n")

    def _try_layer(self, engine: SupervisedTrainer) -> None:
        """Leave the pictures of errors out if they could not be drawn after the training; refuse an unknown layer."""
        if has_several(engine.state.chain.state.items):
            self.target_layer = None
        if self.target_layer is None or self.loaders["test"] is None:
            return
        images = wrapped_images(self.loaders["test"].dataset)
        self._leave_out_pictures(layer_fault(engine.network, images, target_layer=self.target_layer))

    def _leave_out_pictures(self, fault: str | None) -> None:
        if fault is not None:
            logger.warning(
                "target_layer: expected a layer whose feature map explains errors, got %r (%s). The pictures of errors "
                "are left out; name a convolutional layer, or null for none.",
                self.target_layer,
                fault,
            )
            self.target_layer = None

    def _begin_stage(self, engine: SupervisedTrainer) -> None:
        # written again, because the chain may have just chosen the shard
        write_atomically(self.output_dir / "plan.json", engine.state.chain.plan.to_json())

    def _begin_epoch(self, engine: SupervisedTrainer) -> None:
        self.sums, self.count, self.began = dict.fromkeys(LOSS_KEYS, 0.0), 0, time.perf_counter()

    def _add_losses(self, engine: SupervisedTrainer) -> None:
        for key, value in losses_from_output(engine.state.output).items():
            self.sums[key] += value
        self.count += 1

    def _end_epoch(self, engine: SupervisedTrainer) -> None:
        state, distiller = engine.state, engine.state.distiller
        guided, criterion = distiller.teacher is not None, distiller.criterion
        means: dict[str, float | None] = {key: total / self.count for key, total in self.sums.items()}
        if not guided:
            means[DistillationKeys.DISTILLATION_LOSS] = None
        if not guided or criterion.attention_weight == 0:
            means[DistillationKeys.ATTENTION_LOSS] = None
        self.epochs.append(
            {
                "epoch": state.epoch,
                "stage": state.stage,
                "stage_epoch": state.stage_epoch,
                **means,
                "temperature": criterion.temperature if guided else None,
                "learning_rate": engine.optimizer.param_groups[0]["lr"],
                "val": self._validation(state.epoch),
                "seconds": time.perf_counter() - self.began,
            }
        )

    def _validation(self, epoch: int) -> dict[str, float] | None:
        """Return the evaluator's metrics of an epoch, None if it measured nothing in this epoch."""
        if self.evaluator is None or self.evaluator.state.epoch != epoch or not self.evaluator.state.metrics:
            return None
        return {key: float(value) for key, value in self.evaluator.state.metrics.items()}

    def _end_stage(self, engine: SupervisedTrainer) -> None:
        record = engine.state.chain.records[-1]
        checkpoint = Path(f"stage_{record.stage}") / "model.pt"
        (self.output_dir / checkpoint).parent.mkdir(exist_ok=True)
        digest = self._save(engine, self.output_dir / checkpoint)
        self.thresholds = self._choose_thresholds(engine)
        if engine.state.chain.state.held_out:
            write_atomically(self.output_dir / _out_of_fold(record.stage), self._held_out(engine, record.stage))
        self.stages.append(
            {
                "stage": record.stage,
                "teacher": record.teacher,
                "labeled": record.labeled,
                "groups": record.groups,
                "pool": record.pool,
                "epochs": record.epochs,
                "best_epoch": record.best_epoch,
                "seconds": round(record.seconds, 3),
                **{split: self._measure(engine, split) for split in self.loaders},
                "out_of_fold": engine.state.chain.state.out_of_fold,
                **({"thresholds": self.thresholds} if self.thresholds is not None else {}),
                "accepted": record.accepted,
                "selection": record.selection,
                "calibration": record.calibration,
                "gate": {name: getattr(record, name) for name in ("metric", "value", "previous", "tolerance")},
                "checkpoint": checkpoint.as_posix(),
                "sha256": digest,
            }
        )
        self._write(engine)

    def _end(self, engine: SupervisedTrainer) -> None:
        if engine.state.chain.paused(engine):
            return
        self._write(engine, self._save(engine, self.output_dir / "model.pt"))
        final = [stage for stage in self.stages if stage["accepted"]][-1]
        out_of_fold = self.output_dir / _out_of_fold(final["stage"])
        if out_of_fold.is_file():
            link_or_copy(out_of_fold, self.output_dir / OUT_OF_FOLD)
        dataset = getattr(engine.data_loader, "dataset", None)
        kind = kind_reference(dataset, dataset.data) if isinstance(dataset, EmbeddingDataset) else None
        if kind is not None:
            write_atomically(self.output_dir / KIND, kind)
        rows = {split: self._rows(engine, split) for split, loader in self.loaders.items() if loader is not None}
        text = table_text(self._columns(engine), chain.from_iterable(rows.values()))
        write_atomically(self.output_dir / "predictions.csv", text)
        test = self.loaders["test"]
        if self.target_layer is not None and test is not None:
            options: Any = {"target_layer": self.target_layer, "output_dir": self.output_dir}
            options["thresholds"] = final.get("thresholds")
            try:
                save_error_gallery(engine.network, wrapped_images(test.dataset), rows["test"], **options)
            except (ValueError, RuntimeError) as error:  # missing pictures must not fail a finished training
                self._leave_out_pictures(" ".join(str(error).split()))

    def _write(self, engine: SupervisedTrainer, digest: str | None = None) -> None:
        final = [stage for stage in self.stages if stage["accepted"]][-1]
        plan = engine.state.chain.plan
        budget = plan.label_budget
        content = {
            "format": 1,
            "classes": list(plan.classes),
            **({"findings": True} if plan.findings else {}),
            "seed": plan.settings.seed,
            "label_budget": {"train": budget["train"], "val": budget["val"]},
            "ledger": self._ledger(engine),
            "preprocessing": self.preprocessing,
            "settings": self._settings(engine),
            "backbone": origin_of(engine.network),
            "cost": getattr(engine.state, "cost", None),
            "stages": self.stages,
            "final": {
                **{"stage": final["stage"], "test": final["test"], "sha256": digest or final["sha256"]},
                **({"thresholds": final["thresholds"]} if plan.findings else {}),
            },
        }
        write_atomically(self.output_dir / "chain.json", sealed_json(content, indent=4))
        write_atomically(self.output_dir / "history.json", sealed_json({"epochs": self.epochs}, indent=1))

    def _settings(self, engine: SupervisedTrainer) -> dict[str, Any]:
        """Return the settings of the training: options of the chain and the plan, and those of the configuration."""
        chain = engine.state.chain
        return {
            "network": type(unwrap(engine.network)).__name__,
            "threads": torch.get_num_threads(),
            "processes": idist.get_world_size(),
            "max_epochs": engine.state.max_epochs,
            "epoch_length": engine.state.epoch_length,
            **asdict(chain.plan.settings),
            **asdict(chain.options),
            **self.settings,
        }

    def _ledger(self, engine: SupervisedTrainer) -> list[dict[str, Any]]:
        lines = engine.state.chain.oracle.to_dicts() if engine.state.chain.oracle else []
        for purpose, loader in (("validation", self.loaders["val"]), ("test", self.loaders["test"])):
            if loader is not None:
                oracle = LabelOracle(loader.dataset.data, findings=engine.state.chain.plan.findings)
                oracle.reveal([item["id"] for item in loader.dataset.data], purpose=purpose)
                lines += oracle.to_dicts()
        return lines

    def _save(self, engine: SupervisedTrainer, path: Path) -> str:
        content = state_bytes(unwrap(engine.network).state_dict())
        write_atomically(path, content)
        return hashlib.sha256(content).hexdigest()

    def _measure(self, engine: SupervisedTrainer, split: str) -> dict[str, float | None] | None:
        loader = self.loaders[split]
        if loader is None:
            return None
        return label_task(engine.state.chain.plan).measure(*self._predict(engine, loader), self.thresholds)

    def _choose_thresholds(self, engine: SupervisedTrainer) -> list[float | None] | None:
        """Return from which probability on each finding counts as present, None where an image has one class.

        They come from cross-validation if the head was solved, else from validation; without it they are 0.5.
        """
        plan, measured = engine.state.chain.plan, engine.state.chain.state.out_of_fold
        if not plan.findings:
            return None
        if measured is not None:
            return [finding["threshold"] for finding in measured["findings"]]
        if self.loaders["val"] is None:
            return [0.5] * len(plan.classes)
        return label_task(plan).thresholds(*self._logits(engine, self.loaders["val"]))

    def _predict(self, engine: SupervisedTrainer, loader: DataLoader) -> tuple[np.ndarray, np.ndarray]:
        logits, labels = self._logits(engine, loader)
        return label_task(engine.state.chain.plan).probabilities(logits).numpy(), labels.numpy()

    def _logits(self, engine: SupervisedTrainer, loader: DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
        inferer = taking(getattr(self.evaluator, "inferer", engine.inferer), engine.state.distiller.output_index)
        return predict_logits(engine.network, loader, engine.state.device, inferer=inferer)

    def _held_out(self, engine: SupervisedTrainer, stage: int) -> str:
        """Return the table of the labels of a solved stage, each predicted by a head that saw none of its group."""
        state = engine.state.chain.state
        task, labels = label_task(state.plan), state.reveal(stage)
        columns = ["id", "group", *(column for column in task.columns if column != "predicted")]
        rows = []
        for item in state.items:
            if item["id"] in labels:
                cells = task.cells(labels[item["id"]], state.held_out[item["id"]])
                row = {**{key: item[key] for key in ("id", "group")}, **cells}
                rows.append({column: row[column] for column in columns})
        return table_text(columns, rows)

    def _columns(self, engine: SupervisedTrainer) -> list[str]:
        images = [IMAGES] if has_several(engine.state.chain.state.items) else []
        return ["id", "group", "split", *images, *label_task(engine.state.chain.plan).columns]

    def _rows(self, engine: SupervisedTrainer, split: str) -> list[dict[str, Any]]:
        task = label_task(engine.state.chain.plan)
        probabilities, labels = self._predict(engine, self.loaders[split])
        return [
            {
                "id": item["id"],
                "group": item["group"],
                "split": split,
                **({IMAGES: len(item[IMAGES])} if has_several([item]) else {}),
                **task.cells(label, row),
            }
            for item, row, label in zip(self.loaders[split].dataset.data, probabilities, labels, strict=True)
        ]


def _out_of_fold(stage: int) -> Path:
    return Path(f"stage_{stage}") / OUT_OF_FOLD
