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

"""A site of a chain, which trains a stage."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from monai_weckd.bundle.config import BundleConfig
from monai_weckd.bundle.output import check_output_dir, prepare_output_dir
from monai_weckd.data.datalist import Datalist
from monai_weckd.fl.bundle import check_trained, shared_config, write_model
from monai_weckd.fl.chain_rounds import StageAnswer, Student, Weights
from monai_weckd.fl.faults import fault_of
from monai_weckd.losses import BalancedCrossEntropy
from monai_weckd.networks import ClassExperts, freeze
from monai_weckd.plan import ChainPlan
from monai_weckd.utils.literals import literal
from monai_weckd.utils.records import json_digest

__all__ = ["ChainParty"]

logger = logging.getLogger(__name__)

# unless the settings say otherwise, a stage has all labels of its site, which may lack a class
ALL_LABELS = {"label_fraction": 1.0, "selection": "random", "missing_classes": "allow"}
MARK = "job.txt"  # tells the stages of this job from those of another in the same folder
LATER = 0.2  # share of the learning rate in the stages after the first one


class ChainParty:
    """A site of the chain.

    Args:
        settings: ``bundle``, ``dataset_dir``, ``output_dir``, ``classes``, ``overlays``, ``changes`` and ``teachers``,
            "last" if absent. With "all", a site with other class frequencies than the others unlearns little: the task
            loss is :py:class:`~monai_weckd.losses.BalancedCrossEntropy`, and after the first stage the teachers keep
            their weight to the end, and the learning rate is a fifth.

    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    def answer(self, students: Sequence[Student], *, visit: int = 1, again: bool = False) -> StageAnswer:
        """Train a stage. An error stays in the site's log, because it may name an image.

        Args:
            students: see :py:class:`~monai_weckd.fl.chain_rounds.AskSite`.
            visit: number of the site's stage.
            again: whether to remove what an interrupted stage has left.

        """
        try:
            return self._train(students, visit, again)
        except Exception as error:  # any: the server must learn that this site has failed
            logger.exception("the stage failed")
            return StageAnswer({}, {}, fault=fault_of(error))

    def write(self, weights: Weights, stages: Sequence[Mapping[str, Any]], *, again: bool = False) -> None:
        """Write the model into ``output_dir``.

        Args:
            weights: those of the last student.
            stages: records of the stages, with their ``site``.
            again: whether to replace the model, which an earlier server may have sent.

        """
        if again:
            Path(self._settings["output_dir"], "model.pt").unlink(missing_ok=True)
        config, classes = self._config()
        path = write_model(config, classes, self._settings["output_dir"], stages, weights=weights)
        logger.info("written %s, after stages at %s", path, ", ".join(stage["site"] for stage in stages))

    def _config(self) -> tuple[BundleConfig, tuple[str, ...]]:
        given = {name: self._settings[name] for name in ("classes", "overlays")}
        return shared_config(self._settings["bundle"], **given, changes={**ALL_LABELS, **self._settings["changes"]})

    def _train(self, students: Sequence[Student], visit: int, again: bool) -> StageAnswer:
        mark, job = Path(self._settings["output_dir"], MARK), json_digest(dict(self._settings))
        again = again and mark.is_file() and mark.read_text(encoding="utf-8") == job
        if visit == 1 and not again:
            check_output_dir(self._settings["output_dir"])
        config, classes = self._config()
        check_trained(config)
        output = Path(self._settings["output_dir"], f"stage_{visit}")
        check_output_dir(output, overwrite=again)
        for name, path in (("dataset_dir", self._settings["dataset_dir"]), ("output_dir", output)):
            config.set(name, literal(str(path)))
        config.set("num_stages", 1)
        config.leave_out("train#monitors")
        trainer = self._trainer(config, students)
        prepare_output_dir(output, overwrite=again)
        mark.write_text(job, encoding="utf-8")
        trainer.run()
        labels = trainer.state.chain.state.reveal(1).values()
        counts = {name: sum(label == place for label in labels) for place, name in enumerate(classes)}
        state = {name: value.detach().cpu() for name, value in trainer.network.state_dict().items()}
        record = {"labeled": len(labels), "classes": counts, "value": trainer.records[-1].value}
        return StageAnswer(state, record)

    def _trainer(self, config: BundleConfig, students: Sequence[Student]) -> Any:
        """Return the trainer of a stage."""
        config.value("initialize")
        objects: dict[str, Any] = {name: config.value(name) for name in ("datalist", "plan")}
        changes: dict[str, Any] = {}
        if len(objects["plan"].stages[0].labeled) == len(objects["plan"].train):
            changes["chain#pool_ratio"] = 0  # there is no pool
        if students:
            objects["network"] = config.value("network")
            changes["train#trainer#first_teacher"] = _teacher(objects["network"], students)
        everyone = self._settings.get("teachers") == "all"
        if everyone and students:
            changes.update(self._gentle(config))
        config = config.copy(changes, **objects)
        trainer = config.trainer()
        if everyone:
            self._balance(config)
        return trainer

    def _balance(self, config: BundleConfig) -> None:
        """Take the site's class frequencies out of the task loss."""
        labels = _labels(config.value("datalist"), config.value("plan"))
        config.value("loss_function").task_loss = BalancedCrossEntropy(labels)

    def _gentle(self, config: BundleConfig) -> dict[str, Any]:
        """Return the changes of a stage that others came before."""
        changes: dict[str, Any] = {}
        if "distillation_weight_end" not in self._settings["changes"]:
            changes["distillation_weight_end"] = config["distillation_weight"]
        if "learning_rate" in config:
            changes["learning_rate"] = LATER * config.value("learning_rate")
        return changes


def _teacher(network: torch.nn.Module, students: Sequence[Student]) -> torch.nn.Module:
    """Return the frozen teacher, and let the network start from the last student."""
    teachers = []
    for student in students:
        network.load_state_dict(student.weights)
        teachers.append(freeze(network))
    if len(teachers) == 1:
        return teachers[0]
    return ClassExperts(teachers, torch.tensor([student.labels for student in students]))


def _labels(datalist: Datalist, plan: ChainPlan) -> list[int]:
    """Return the number of labels of each class in the stage."""
    ids = set(plan.stages[0].labeled)
    labels = [item["label"] for item in datalist.items if item["id"] in ids]
    return [labels.count(place) for place in range(len(datalist.classes))]
