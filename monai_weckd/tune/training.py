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

"""Prepare a bundle for tuning: fix its plan, remove test items, and configure each trial."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_weckd.bundle.config import BundleConfig
from monai_weckd.data.datalist import Datalist, plan_datalist
from monai_weckd.plan.splits import divide_epochs
from monai_weckd.tune.blind import BlindOracle, limit_validation
from monai_weckd.tune.space import TunedParameter
from monai_weckd.utils.literals import literal

__all__ = ["TunedBundle"]


class TunedBundle:
    """Train a bundle repeatedly with different values, and without its test split.

    The data list and the plan are made once. The plan is made without the test labels. The test items are then removed
    from the data list, so that no trial can reach them.

    Args:
        bundle: the bundle's folder.
        dataset_dir: the data.
        cache_dir: folder for decoded images if the configuration names none; all trials share it.
        overlays: configuration files to merge into ``configs/train.json``, in order: paths, or names of files in
            ``configs``.
        changes: values to set in the configuration, by key.
        parameters: the tuned parameters.
        seed: seed of the choice of validation labels, default 0.

    Raises:
        ValueError: When a file is missing, a key is not in the configuration, or a tuned key is also set.
        ValueError: When a trial would choose its own labels, or the data cannot be planned.
        ValueError: When heads are solved, so that there is nothing to tune.
        ValueError: When there is no validation, by which trials are compared.

    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        dataset_dir: str | os.PathLike[str],
        *,
        cache_dir: str | os.PathLike[str],
        parameters: Sequence[TunedParameter],
        overlays: Sequence[str | os.PathLike[str]] = (),
        changes: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.parameters = tuple(parameters)
        changes = {**(changes or {}), "dataset_dir": literal(str(dataset_dir))}
        self.config = config = BundleConfig(bundle, overlays=overlays, changes=changes)
        config.refuse_several_images("tune")
        if config.solves_heads:
            raise ValueError(
                "config_file: expected a training step by step, got one that solves heads and has nothing to tune. "
                "Pass --config_file scratch.json."
            )
        self._check_keys(changes)
        self.replaced_selection = self._replace_selection(changes)
        config.refuse_unused()
        if not config["validate#evaluator"]:
            raise ValueError("validate#evaluator: expected an evaluator, got none. Tuning needs a validation.")
        if config["cache_dir"] is None:
            config.set("cache_dir", literal(str(cache_dir)))
        # trials write no files, print no progress and run no test
        config.leave_out("train#monitors", "train#recorder", "train#checkpoint", "test")
        self._plan(seed)
        self.own_values = {item.name: config.value(item.key) for item in self.parameters}
        self.epochs = divide_epochs(
            config.value("train#trainer#max_epochs"), self.plan.settings.num_stages, config.value("chain").stage_epochs
        )
        compare = "validate#evaluator#metric_cmp_fn"
        better = config.value(compare) if compare in config else None
        self.lower_is_better = callable(better) and not better(1.0, 0.0)

    @property
    def files(self) -> list[Path]:
        """The files that configure the training."""
        return self.config.files

    def overlay(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration overlay with tuned values, by key.

        Args:
            values: values of the parameters, by name.

        """
        keys = {parameter.name: parameter.key for parameter in self.parameters}
        return {keys[name]: value for name, value in values.items()}

    @property
    def knows_own_values(self) -> bool:
        """Whether the configuration's own values are within the ranges, so that a trial may use them."""
        return all(parameter.holds(self.own_values[parameter.name]) for parameter in self.parameters)

    @property
    def warmup_epochs(self) -> int:
        """The number of epochs before pruning, which are those of the first stage and the first one with a teacher."""
        return self.epochs[0] + 1

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that affect a trial's result, except the tuned values, as JSON-compatible data."""
        content = self.config.plain()
        # the plan's digest covers the split and the shards, so their paths do not matter
        content["datalist"].pop("split_file", None)
        content["plan"].pop("shards", None)
        return {**{key: _short(value) for key, value in content.items()}, "data and plan": self.plan.digest[:12]}

    def trial(self, values: Mapping[str, Any]) -> BundleConfig:
        """Return the configuration of a trial.

        Args:
            values: values of the parameters, by name.

        """
        return self.config.copy(self.overlay(values), datalist=self.datalist, plan=self.plan)

    def _check_keys(self, changes: Mapping[str, Any]) -> None:
        for parameter in self.parameters:
            if not self.config.takes(parameter.key):
                raise ValueError(f"parameters: expected keys of {self.files[0]}, got {parameter.name!r}. Leave it out.")
            if parameter.key in changes:
                raise ValueError(
                    f"set: expected a key that is not tuned, got {parameter.key!r}. Leave it out of --parameters."
                )

    def _replace_selection(self, changes: Mapping[str, Any]) -> str | None:
        """Replace a chain's own selection of shards by a random one, and return the replaced selection.

        Otherwise each trial would request different labels, and together the trials would exceed the label budget.
        """
        selection: str = self.config.value("plan#settings").selection
        given = "plan#shards" in self.config and self.config["plan#shards"] is not None
        if selection == "random" or given or "selection" in changes:
            return None
        self.config.set("selection", "random")
        return selection

    def _plan(self, seed: int) -> None:
        config = self.config
        datalist: Datalist = config.value("datalist")
        oracle = BlindOracle(datalist.items, kind=datalist.kind)
        shards = config.value("plan#shards") if "plan#shards" in config else None
        whole = plan_datalist(datalist, config.value("plan#settings"), shards=shards, oracle=oracle)
        if whole.settings.selection not in ("random", "given"):
            raise ValueError(
                f"selection: expected 'random' or given shards, got {whole.settings.selection!r}: every trial "
                "would ask for other labels. Pass --set selection=random, or --set plan#shards=path/to/plan.json."
            )
        if not whole.val:
            raise ValueError(
                "tune: expected validation images to tune on, got none. "
                "Pass --set val_fraction=0.2, or a data list with a validation split."
            )
        self.whole_plan, self.plan = whole, limit_validation(whole, oracle, seed=seed)
        reachable = {*whole.train, *self.plan.val}
        self.datalist = datalist._replace(items=[item for item in datalist.items if item["id"] in reachable])


def _short(value: Any) -> Any:
    """Return a number or a short text as it is, and anything else as short JSON or a digest."""
    if value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= 80):
        return value
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else f"digest {hashlib.sha256(text.encode()).hexdigest()[:12]}"
