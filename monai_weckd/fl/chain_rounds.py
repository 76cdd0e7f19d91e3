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

"""A chain whose stages are at several sites: one model travels, and learns at each from its labels and its pool."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from monai_weckd.bundle.config import BundleConfig
from monai_weckd.bundle.output import check_output_dir, prepare_output_dir
from monai_weckd.data.datalist import Datalist
from monai_weckd.fl.bundle import check_trained, shared_config, write_model
from monai_weckd.losses import BalancedCrossEntropy
from monai_weckd.networks import ClassExperts, freeze
from monai_weckd.plan import ChainPlan
from monai_weckd.utils.files import state_bytes, write_atomically
from monai_weckd.utils.literals import literal

__all__ = ["TEACHERS", "AskSite", "ChainParty", "ChainProgress", "StageAnswer", "Student", "route", "run_over_sites"]

logger = logging.getLogger(__name__)

TEACHERS = ("last", "all")
Weights = dict[str, torch.Tensor]
# unless the settings say otherwise, a stage has all labels of its site, which may lack a class
ALL_LABELS = {"label_fraction": 1.0, "selection": "random", "missing_classes": "allow"}
LATER = 0.2  # share of the learning rate in the stages after the first one


@dataclass(frozen=True, eq=False)
class Student:
    """What a stage has left.

    Args:
        weights: the ``state_dict``.
        labels: labels of each class that the stage has learned from, in the order of the classes.

    """

    weights: Weights
    labels: list[int]


@dataclass(frozen=True, eq=False)
class StageAnswer:
    """What a site sends after its stage.

    Args:
        weights: the student's ``state_dict``, empty after a fault.
        record: ``labeled``, the number of labels; ``classes``, the labels of each class; ``value`` of the key metric on
            the site's validation, None without one.
        fault: why there are no weights; it names no image.

    """

    weights: Weights
    record: dict[str, Any]
    fault: str = ""


class AskSite(Protocol):
    """Interface of what sends students to a site and waits for its own."""

    def __call__(self, students: Sequence[Student], site: str, visit: int, again: bool) -> StageAnswer | None:
        """Return the answer, None if the site is late.

        Args:
            students: teachers of the stage, in the order in which they learned; the stage's student starts from the
                last one. None at the first site.
            site: name of the site.
            visit: 1 for a site's first stage, 2 for its second.
            again: whether an earlier server may have asked the same.

        """


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
            students: see :py:class:`AskSite`.
            visit: number of the site's stage.
            again: whether to remove what an interrupted stage has left.

        """
        try:
            return self._train(students, visit, again)
        except Exception as error:  # any: the server must learn that this site has failed
            logger.exception("the stage failed")
            return StageAnswer({}, {}, fault=f"{type(error).__name__}, see its log")

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
            config.value("loss_function").task_loss = BalancedCrossEntropy(
                _labels(objects["datalist"], objects["plan"])
            )
        return trainer

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


@dataclass
class ChainProgress:
    """How far a chain over sites has come.

    Args:
        path: file that keeps it after each stage, so that another server goes on from there; default None: nowhere.

    """

    path: Path | None = None
    done: int = 0
    again: bool = False
    records: list[dict[str, Any]] = field(default_factory=list, init=False)
    students: dict[str, Student] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.path is None:
            return
        if self.path.exists():
            kept = torch.load(self.path, weights_only=True)
            self.done, self.records, self.again = kept["done"], kept["records"], True
            self.students = {site: Student(**student) for site, student in kept["students"].items()}
            logger.info("going on after %s", ", ".join(record["site"] for record in self.records) or "no stage")
        else:
            self.keep()

    def add(self, site: str, answer: StageAnswer, *, teachers: str) -> None:
        """Add a stage.

        Args:
            site: name of its site.
            answer: what the site sent.
            teachers: "last" forgets the earlier students; of "all", one is the latest of each site.

        """
        self.records.append({"stage": len(self.records) + 1, "site": site, **answer.record})
        others = {name: student for name, student in self.students.items() if name != site and teachers == "all"}
        self.students = {**others, site: Student(answer.weights, list(answer.record["classes"].values()))}

    def keep(self) -> None:
        """Write the file."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            students = {site: vars(student) for site, student in self.students.items()}
            content = state_bytes({"done": self.done, "records": self.records, "students": students})
            write_atomically(self.path, content)

    def remove(self) -> None:
        """Remove the file, after the last site has the model."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def route(sites: Sequence[str], *, there_and_back: bool = False) -> list[tuple[str, int]]:
    """Return the stages as site and number of its visit.

    Args:
        sites: names of the sites, in order.
        there_and_back: whether the model returns by the same way; the last site has one stage.

    Example::

        >>> route(["a", "b", "c"], there_and_back=True)
        [('a', 1), ('b', 1), ('c', 1), ('b', 2), ('a', 2)]

    """
    back = [(site, 2) for site in reversed(sites[:-1])] if there_and_back else []
    return [(site, 1) for site in sites] + back


def run_over_sites(
    ask: AskSite,
    sites: Sequence[str],
    *,
    on_missing: str = "stop",
    teachers: str = "last",
    there_and_back: bool = False,
    progress: ChainProgress | None = None,
) -> tuple[Weights, list[dict[str, Any]]]:
    """Run a stage at each site in turn, and return the weights of the last student and the records of the stages.

    A site is missing if it does not answer, reports a fault, or sends weights that are not finite or have other names,
    shapes or classes than those that arrived. With "skip" the weights that arrived there go on to the next site.

    Args:
        ask: sends students to a site and waits for its answer.
        sites: names of the sites, in order.
        on_missing: "stop" or "skip".
        teachers: "last", or "all" for the latest student of each site, see
            :py:class:`~monai_weckd.networks.ClassExperts`.
        there_and_back: see :py:func:`route`.
        progress: where to begin; it is kept after each stage. Default None: at the first site.

    Raises:
        ValueError: When a site is missing and ``on_missing`` is "stop", or every site is.

    """
    progress = ChainProgress() if progress is None else progress
    for site, visit in route(sites, there_and_back=there_and_back)[progress.done :]:
        students = list(progress.students.values())
        answer = ask(students, site, visit, progress.again)
        fault = _fault(answer, progress)
        if fault and on_missing == "stop":
            raise ValueError(f"sites: expected a student of {site}, got {fault}. Mend it, or pass --on_missing skip.")
        if fault or answer is None:
            logger.warning("left out %s: %s", site, fault)
        else:
            progress.add(site, answer, teachers=teachers)
        progress.done += 1
        progress.keep()
    if not progress.records:
        raise ValueError("sites: expected the student of one site or more, got none. Look at the logs of the sites.")
    *_, last = progress.students.values()
    return last.weights, progress.records


def _fault(answer: StageAnswer | None, progress: ChainProgress) -> str:
    if answer is None:
        return "no answer in time"
    if answer.fault:
        return answer.fault
    for student in progress.students.values():
        if _shapes(answer.weights) != _shapes(student.weights):
            return "weights of another network or class list"
    if progress.records and list(answer.record["classes"]) != list(progress.records[0]["classes"]):
        return "weights of another network or class list"
    if not all(value.isfinite().all() for value in answer.weights.values()):
        return "weights that are not finite"
    return ""


def _shapes(weights: Weights) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}
