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

"""The server of several sites as controllers of NVIDIA FLARE. This module needs ``nvflare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_common.workflows.model_controller import ModelController

from monai_weckd.fl.chain_rounds import ChainProgress, StageAnswer, Student, run_over_sites
from monai_weckd.fl.exact import Sums
from monai_weckd.fl.exact_rounds import SiteAnswer, solve_over_sites
from monai_weckd.fl.faults import LATE, NOT_FINITE, OTHER
from monai_weckd.fl.messages import AVERAGE, HEAD, JOINT, STAGE, WRITE, to_arrays, to_tensors

__all__ = ["AverageController", "ChainController", "ExactController"]


class _Asks(ModelController):
    """Ask sites, and wait for their answers; :py:mod:`monai_weckd.fl.site` answers."""

    hours: float
    on_missing: str

    @property
    def seconds(self) -> int:
        """How long to wait for an answer."""
        return max(1, round(3600 * self.hours))

    def ask(self, task: str, totals: Mapping[str, Sums], targets: Sequence[str], **meta: Any) -> dict[str, FLModel]:
        """Return the answers by site; a site that is late has none.

        Args:
            task: name of the round.
            totals: sums or weights by round.
            targets: names of the sites.
            meta: remarks for the sites.

        """
        data = FLModel(params=to_arrays(totals), params_type=ParamsType.FULL, meta={"round": task, **meta})
        found = self.send_model_and_wait(data=data, targets=list(targets), timeout=self.seconds)
        self.check_running()
        return {one.meta["client_name"]: one for one in found}

    def check_running(self) -> None:
        """Refuse to take the end of a job for sites that are late.

        Raises:
            RuntimeError: When the job was aborted.

        """
        if self.abort_signal.triggered:
            raise RuntimeError("job: expected to go on, got a signal to abort it. Submit the job again.")

    def hand_out(self, task: str, totals: Mapping[str, Sums], targets: Sequence[str], **meta: Any) -> bool:
        """Let sites write the joint model, and return whether all did.

        Args:
            task: name of the message.
            totals: the head or the weights.
            targets: names of the sites.
            meta: remarks for the sites.

        Raises:
            ValueError: When a site did not write it and ``on_missing`` is "stop", or none did.

        """
        answers = self.ask(task, totals, targets, **meta)
        found = {site: answers[site].meta["fault"] if site in answers else LATE for site in targets}
        faults = {site: fault for site, fault in found.items() if fault}
        text = "; ".join(f"{site}: {fault}" for site, fault in faults.items())
        if faults and (self.on_missing == "stop" or len(faults) == len(targets)):
            raise ValueError(f"model: expected it at all sites, got none at {text}. Mend it, and submit the job again.")
        if faults:
            self.warning(f"no model at {text}")
        return not faults

    def send_head(self, sites: Sequence[str], weights: Sums | None = None, **meta: Any) -> bool:
        """Solve the head for the labels of all sites, send the model to each, and return whether all wrote it.

        Args:
            sites: names of the sites.
            weights: of the network that the sites have trained, default None: that of the bundle is frozen.
            meta: remarks for the sites.

        """
        joint = {} if weights is None else {JOINT: weights}

        def ask(task: str, totals: Mapping[str, Sums], sites: Sequence[str]) -> dict[str, SiteAnswer]:
            first = {} if totals else joint  # a site keeps the network for the rounds that follow
            return {
                site: SiteAnswer(to_tensors(one.params).get(task, {}), one.meta["identity"], one.meta["fault"])
                for site, one in self.ask(task, {**first, **totals}, sites).items()
            }

        head, sites = solve_over_sites(ask, sites, on_missing=self.on_missing)
        self.info(f"head for {head.labels} labels of {', '.join(sites)}: {head.balanced_accuracy} balanced accuracy")
        values: dict[str, Any] = asdict(head)
        tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
        figures = {name: value for name, value in values.items() if name not in tensors}
        return self.hand_out(HEAD, {HEAD: tensors}, sites, figures=figures, sites=list(sites), **meta)


class _SitesController(_Asks):
    """A controller that decides itself what to ask.

    Args:
        sites: names of the sites, in the order of a chain.
        hours: how long to wait for an answer.
        on_missing: "stop" or "skip".

    """

    def __init__(self, sites: Sequence[str], hours: float, on_missing: str) -> None:
        # a site's error must not stop the job before it is known which site it was
        super().__init__(persistor_id="", ignore_result_error=True)
        self.sites = list(sites)
        self.hours = hours
        self.on_missing = on_missing


class ExactController(_SitesController):
    """Solve the head for the labels of all sites, and send it to each."""

    def run(self) -> None:
        """Run the job; an error of it ends the job and is its message."""
        self.send_head(self.sites)


class ChainController(_SitesController):
    """Run a stage at each site in turn, and send the last student to all that took part.

    Args:
        sites: names of the sites, in order.
        hours: how long to wait for an answer.
        on_missing: "stop" or "skip".
        teachers: see :py:func:`~monai_weckd.fl.chain_rounds.run_over_sites`.
        there_and_back: see :py:func:`~monai_weckd.fl.chain_rounds.route`.
        kept: file that keeps the stages until the end, default None: nowhere.
        exact_head: whether the sites solve the head of the last student anew, for the labels of all.

    """

    def __init__(
        self,
        sites: Sequence[str],
        hours: float,
        on_missing: str,
        teachers: str = "last",
        there_and_back: bool = False,
        kept: str | None = None,
        exact_head: bool = False,
    ) -> None:
        super().__init__(sites, hours, on_missing)
        self.exact_head = exact_head
        self.teachers = teachers
        self.there_and_back = there_and_back
        self.kept = kept

    def run(self) -> None:
        """Run the job; an error of it ends the job and is its message."""
        progress = ChainProgress(None if self.kept is None else Path(self.kept))
        weights, stages = run_over_sites(
            self._answer,
            self.sites,
            on_missing=self.on_missing,
            teachers=self.teachers,
            there_and_back=self.there_and_back,
            progress=progress,
        )
        for stage in stages:
            self.info(f"stage {stage['stage']} at {stage['site']}: {stage['labeled']} labels, {stage['value']}")
        took_part = {stage["site"] for stage in stages}
        sites = [site for site in self.sites if site in took_part]
        if self.exact_head:
            written = self.send_head(sites, weights, stages=stages, again=progress.again)
        else:
            written = self.hand_out(WRITE, {WRITE: weights}, sites, stages=stages, again=progress.again)
        if written:  # else the same job goes on from here
            progress.remove()

    def _answer(self, students: Sequence[Student], site: str, visit: int, again: bool) -> StageAnswer | None:
        weights = {str(place): student.weights for place, student in enumerate(students)}
        labels = [student.labels for student in students]
        one = self.ask(STAGE, weights, [site], labels=labels, visit=visit, again=again).get(site)
        return one and StageAnswer(to_tensors(one.params).get(STAGE, {}), one.meta["record"], one.meta["fault"])


class AverageController(_Asks, FedAvg):
    """NVIDIA FLARE's federated averaging, which names a site that is missing.

    Args:
        sites: names of the sites.
        hours: how long to wait for an answer.
        on_missing: "stop", or "skip" for the average of the others.
        rounds: number of rounds.
        exact_head: whether the sites solve the head of the last average anew, for the labels of all.

    """

    def __init__(
        self, sites: Sequence[str], hours: float, on_missing: str, rounds: int, exact_head: bool = False
    ) -> None:
        super().__init__(
            num_clients=len(sites), num_rounds=rounds, persistor_id="", save_filename=None, ignore_result_error=True
        )
        self.sites = list(sites)
        self.hours = hours
        self.on_missing = on_missing
        self.rounds = rounds
        self.exact_head = exact_head
        self._answers: dict[str, FLModel] = {}
        self._took_part: list[str] = []
        self._average: FLModel | None = None

    def run(self) -> None:
        """Run the job; an error of it ends the job and is its message."""
        super().run()
        self.check_running()
        if self._average is None:
            return
        weights, sites = to_tensors(self._average.params)[AVERAGE], self._took_part
        if self.exact_head:
            stages = [{"stage": 1, "rounds": self.rounds, "sites": sites}]
            self.send_head(sites, weights, stages=stages, again=False)
        else:
            self.hand_out(WRITE, {WRITE: weights}, sites, sites=sites)

    def load_model(self) -> FLModel:
        """Return a model without weights: the sites start from the bundle's seed."""
        return FLModel(params=to_arrays({}), params_type=ParamsType.FULL)

    def save_model(self, model: FLModel) -> None:
        """Keep the average for the sites.

        Args:
            model: the average.

        """
        self._average = model

    def send_model(self, **options: Any) -> None:
        """Send the average to the sites, and do not wait forever.

        Args:
            options: see NVIDIA FLARE.

        """
        self._answers = {}
        options["data"].meta["round"] = AVERAGE
        super().send_model(**{**options, "targets": self.sites, "timeout": self.seconds})

    def _aggregate_one_result(self, result: FLModel) -> bool:
        self._answers[result.meta["client_name"]] = result  # added when all are there, in the order of the sites
        return True

    def _get_aggregated_result(self) -> FLModel:
        self.check_running()
        faults = _faults({site: self._answers.get(site) for site in self.sites})
        for site, fault in faults.items():
            if self.on_missing == "stop":
                raise ValueError(
                    f"sites: expected weights of all sites, got none of {site}: {fault}. "
                    "Mend it, or pass --on_missing skip."
                )
            self.warning(f"left out {site}: {fault}")
        self._took_part = [site for site in self.sites if site not in faults]
        if not self._took_part:
            raise ValueError("sites: expected weights of one site or more, got none. Look at the logs of the sites.")
        for site in self._took_part:
            super()._aggregate_one_result(self._answers[site])
        return super()._get_aggregated_result()


def _faults(answers: Mapping[str, FLModel | None]) -> dict[str, str]:
    """Return what is wrong with weights, by site."""
    faults: dict[str, str] = {}
    first = None
    for site, answer in answers.items():
        if answer is None or answer.meta["fault"]:
            faults[site] = LATE if answer is None else answer.meta["fault"]
        elif not all(np.isfinite(value).all() for value in answer.params.values()):
            faults[site] = NOT_FINITE
        else:
            kind = answer.meta["classes"], {name: value.shape for name, value in answer.params.items()}
            first = first or kind
            if kind != first:
                faults[site] = OTHER
    return faults
