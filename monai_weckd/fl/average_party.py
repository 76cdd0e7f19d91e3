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


"""Federated averaging: MONAI's client trains a chain at each site, round by round, and weights are averaged."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import FlStatistics
from monai.fl.utils.exchange_object import ExchangeObject

from monai_weckd.bundle.config import BundleConfig
from monai_weckd.bundle.output import check_output_dir
from monai_weckd.fl.bundle import check_trained, shared_config, write_model
from monai_weckd.fl.chain_party import ALL_LABELS
from monai_weckd.fl.faults import fault_of
from monai_weckd.utils.literals import literal

__all__ = ["AverageAnswer", "AverageParty"]

logger = logging.getLogger(__name__)

Weights = dict[str, torch.Tensor]
# one stage with all labels, which has no teacher and thus no pool
ONE_STAGE = {**ALL_LABELS, "num_stages": 1, "chain#pool_ratio": 0}


@dataclass(frozen=True, eq=False)
class AverageAnswer:
    """What a site sends after a round.

    Args:
        weights: the network's ``state_dict``, empty after a fault.
        steps: iterations of the round, the weight of the site in the average.
        classes: names of the classes in the order of their indices.
        fault: why there are no weights; it names no image.

    """

    weights: Weights
    steps: int = 0
    classes: tuple[str, ...] = ()
    fault: str = ""


class AverageParty:
    """A site of federated averaging (McMahan et al., arXiv 1602.05629), around ``monai.fl.client.MonaiAlgo``.

    Args:
        settings: ``bundle``, ``dataset_dir``, ``output_dir``, ``classes``, ``overlays``, ``changes``, and ``rounds``,
            among which the bundle's ``max_epochs`` are divided.

    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._client: MonaiAlgo | None = None
        self._begun = False
        self._classes: tuple[str, ...] = ()

    def answer(self, weights: Mapping[str, torch.Tensor]) -> AverageAnswer:
        """Train a round. An error stays in the site's log, because it may name an image.

        Args:
            weights: the average of the round before; empty in the first, which starts from the bundle's seed.

        """
        try:
            if self._client is None:
                self._client = self._make_client()
            # copies, since PyTorch refuses to load a tensor of one channel in memory format channels_last into itself
            incoming = dict(weights) or _copied(self._client.get_weights())
            self._client.train(ExchangeObject(weights=incoming))
            found = self._client.get_weights()
            steps = found.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS]
            return AverageAnswer(_copied(found), steps, self._classes)
        except Exception as error:  # any: the server must learn that this site has failed
            logger.exception("the round failed")
            self._client = None
            return AverageAnswer({}, fault=fault_of(error))

    def write(self, weights: Mapping[str, torch.Tensor], sites: list[str]) -> None:
        """Write the model into ``output_dir``.

        Args:
            weights: the last average.
            sites: names of the sites whose weights are in it.

        """
        config, classes = self._config()
        stages = [{"stage": 1, "rounds": self._settings["rounds"], "sites": sites}]
        path = write_model(config, classes, self._settings["output_dir"], stages, weights=dict(weights))
        logger.info("written %s, the average of %s", path, ", ".join(sites))

    def _config(self) -> tuple[BundleConfig, tuple[str, ...]]:
        overlays = [*self._settings["overlays"], "federated_train.json"]
        changes = {**ONE_STAGE, **self._settings["changes"]}
        return shared_config(
            self._settings["bundle"], classes=self._settings["classes"], overlays=overlays, changes=changes
        )

    def _make_client(self) -> MonaiAlgo:
        """Return MONAI's client, with the settings of this site."""
        config, classes = self._config()
        check_trained(config)
        epochs, rounds = config["max_epochs"], self._settings["rounds"]
        if epochs % rounds:
            raise ValueError(
                f"rounds: expected a divisor of the {epochs} epochs, got {rounds}. Pass --set max_epochs={rounds}."
            )
        output = Path(self._settings["output_dir"], "rounds")
        if self._begun:  # a round has failed, and the next one begins anew
            shutil.rmtree(output, ignore_errors=True)
        else:
            check_output_dir(self._settings["output_dir"])
        self._begun, self._classes = True, classes
        changes = {
            **ONE_STAGE,
            **self._settings["changes"],
            "datalist#classes": [literal(name) for name in classes],
            "dataset_dir": literal(str(self._settings["dataset_dir"])),
            "output_dir": literal(str(output)),
        }
        client = MonaiAlgo(
            str(config.root),
            local_epochs=epochs // rounds,
            send_weight_diff=False,
            config_train_filename=[str(path) for path in config.files],
            train_kwargs=changes,
            config_evaluate_filename=None,
        )
        client.initialize()
        return client


def _copied(found: Any) -> Weights:
    """Return copies of the weights in an :py:class:`ExchangeObject`."""
    return {name: torch.as_tensor(value).detach().cpu().clone() for name, value in found.weights.items()}
