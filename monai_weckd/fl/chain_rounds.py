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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from monai_weckd.bundle.config import BundleConfig
from monai_weckd.bundle.output import check_output_dir, prepare_output_dir
from monai_weckd.fl.bundle import shared_config, write_model
from monai_weckd.networks.freezing import freeze
from monai_weckd.utils.literals import literal

__all__ = ["AskSite", "ChainParty", "StageAnswer", "run_over_sites"]

logger = logging.getLogger(__name__)

Weights = dict[str, torch.Tensor]
# unless the settings say otherwise, a stage has all labels of its site, which may lack a class
ALL_LABELS = {"label_fraction": 1.0, "selection": "random", "missing_classes": "allow"}


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
    """Interface of what sends weights to a site and waits for its student."""

    def __call__(self, weights: Weights, site: str) -> StageAnswer | None:
        """Return the answer, None if the site is late."""


class ChainParty:
    """A site of the chain.

    Args:
        settings: ``bundle``, ``dataset_dir``, ``output_dir``, ``classes``, ``overlays`` and ``changes``.

    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    def answer(self, weights: Weights) -> StageAnswer:
        """Train a stage. An error stays in the site's log, because it may name an image.

        Args:
            weights: weights of the frozen teacher, from which the student starts; empty at the first site.

        """
        try:
            return self._train(weights)
        except Exception as error:  # any: the server must learn that this site has failed
            logger.exception("the stage failed")
            return StageAnswer({}, {}, fault=f"{type(error).__name__}, see its log")

    def write(self, weights: Weights, stages: Sequence[Mapping[str, Any]]) -> None:
        """Write the model into ``output_dir``.

        Args:
            weights: those of the last student.
            stages: records of the stages, with their ``site``.

        """
        config, classes = self._config()
        path = write_model(config, classes, self._settings["output_dir"], stages, weights=weights)
        logger.info("written %s, after stages at %s", path, ", ".join(stage["site"] for stage in stages))

    def _config(self) -> tuple[BundleConfig, tuple[str, ...]]:
        given = {name: self._settings[name] for name in ("classes", "overlays")}
        return shared_config(self._settings["bundle"], **given, changes={**ALL_LABELS, **self._settings["changes"]})

    def _train(self, weights: Weights) -> StageAnswer:
        check_output_dir(self._settings["output_dir"])
        config, classes = self._config()
        if config.solves_heads:
            raise ValueError(
                "bundle: expected a network that is trained, got one whose head is solved. Pass --config_file "
                "scratch.json, or --mode exact."
            )
        output = Path(self._settings["output_dir"], "stage")
        for name, path in (("dataset_dir", self._settings["dataset_dir"]), ("output_dir", output)):
            config.set(name, literal(str(path)))
        config.set("num_stages", 1)
        config.leave_out("train#monitors")
        config.value("initialize")
        objects: dict[str, Any] = {name: config.value(name) for name in ("datalist", "plan")}
        changes: dict[str, Any] = {}
        if len(objects["plan"].stages[0].labeled) == len(objects["plan"].train):
            changes["chain#pool_ratio"] = 0  # there is no pool
        if weights:
            objects["network"] = config.value("network")
            objects["network"].load_state_dict(weights)
            changes["train#trainer#first_teacher"] = freeze(objects["network"])
        trainer = config.copy(changes, **objects).trainer()
        prepare_output_dir(output)
        trainer.run()
        labels = trainer.state.chain.state.reveal(1).values()
        counts = {name: sum(label == place for label in labels) for place, name in enumerate(classes)}
        state = {name: value.detach().cpu() for name, value in trainer.network.state_dict().items()}
        record = {"labeled": len(labels), "classes": counts, "value": trainer.records[-1].value}
        return StageAnswer(state, record)


def run_over_sites(
    ask: AskSite, sites: Sequence[str], *, on_missing: str = "stop"
) -> tuple[Weights, list[dict[str, Any]]]:
    """Run a stage at each site in turn, and return the weights of the last student and the records of the stages.

    A site is missing if it does not answer, reports a fault, or sends weights that are not finite or have other names
    or shapes than those that arrived. With "skip" the weights that arrived there go on to the next site.

    Args:
        ask: sends weights to a site and waits for its answer.
        sites: names of the sites, in order.
        on_missing: "stop" or "skip".

    Raises:
        ValueError: When a site is missing and ``on_missing`` is "stop", or every site is.

    """
    weights: Weights = {}
    records: list[dict[str, Any]] = []
    for site in sites:
        answer = ask(weights, site)
        fault = _fault(answer, weights)
        if fault and on_missing == "stop":
            raise ValueError(f"sites: expected a student of {site}, got {fault}. Mend it, or pass --on_missing skip.")
        if fault or answer is None:
            logger.warning("left out %s: %s", site, fault)
            continue
        weights = answer.weights
        records.append({"stage": len(records) + 1, "site": site, **answer.record})
    if not records:
        raise ValueError("sites: expected the student of one site or more, got none. Look at the logs of the sites.")
    return weights, records


def _fault(answer: StageAnswer | None, before: Weights) -> str:
    if answer is None:
        return "no answer in time"
    if answer.fault:
        return answer.fault
    shapes, expected = ({name: value.shape for name, value in one.items()} for one in (answer.weights, before))
    if before and shapes != expected:
        return "weights of another network or class list"
    if not all(value.isfinite().all() for value in answer.weights.values()):
        return "weights that are not finite"
    return ""
