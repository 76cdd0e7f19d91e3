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

"""The server of the exact head as a controller of NVIDIA FLARE. This module needs ``nvflare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.workflows.model_controller import ModelController

from monai_weckd.fl.exact import Sums
from monai_weckd.fl.exact_rounds import SiteAnswer, solve_over_sites
from monai_weckd.fl.exact_site import WRITE, to_arrays, to_tensors

__all__ = ["ExactController"]


class ExactController(ModelController):
    """Solve the head for the labels of all sites, and send it to each; :py:mod:`monai_weckd.fl.exact_site` answers.

    Args:
        sites: names of the sites.
        hours: how long to wait for the sites in each round.
        on_missing: "stop" or "skip", see :py:func:`monai_weckd.fl.exact_rounds.solve_over_sites`.

    """

    def __init__(self, sites: Sequence[str], hours: float, on_missing: str) -> None:
        # a site's error must not stop the job before it is known which site it was
        super().__init__(persistor_id="", ignore_result_error=True)
        self.sites = list(sites)
        self.hours = hours
        self.on_missing = on_missing

    def run(self) -> None:
        """Run the job; an error of it ends the job and is its message."""
        head, sites = solve_over_sites(self._answers, self.sites, on_missing=self.on_missing)
        self.info(f"head for {head.labels} labels of {', '.join(sites)}: {head.balanced_accuracy} balanced accuracy")
        values: dict[str, Any] = asdict(head)
        tensors = {name: value.numpy() for name, value in values.items() if isinstance(value, torch.Tensor)}
        figures = {name: value for name, value in values.items() if name not in tensors}
        self._ask(WRITE, tensors, sites, figures=figures, sites=list(sites))

    def _answers(self, task: str, totals: Mapping[str, Sums], sites: Sequence[str]) -> dict[str, SiteAnswer]:
        found = self._ask(task, to_arrays(totals), sites)
        return {
            one.meta["client_name"]: SiteAnswer(
                to_tensors(one.params).get(task, {}), one.meta["identity"], one.meta["fault"]
            )
            for one in found
        }

    def _ask(self, task: str, arrays: Mapping[str, Any], targets: Sequence[str], **meta: Any) -> list[FLModel]:
        data = FLModel(params=dict(arrays), params_type=ParamsType.FULL, meta={"round": task, **meta})
        timeout = max(1, round(3600 * self.hours))
        found: list[FLModel] = self.send_model_and_wait(data=data, targets=list(targets), timeout=timeout)
        return found
