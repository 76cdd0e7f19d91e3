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

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from monai_weckd.bundle.checks import unused_keys
from monai_weckd.bundle.config import training_files
from monai_weckd.bundle.identity import PLACES
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.splits import divide_epochs
from monai_weckd.tune.blind import BlindOracle, limit_validation
from monai_weckd.tune.space import TunedParameter, complete_temperature
from monai_weckd.utils.errors import one_error
from monai_weckd.utils.messages import nearest

__all__ = ["TunedBundle"]

# what may differ between the workers of a study without changing a trial's result, or shows in the plan's digest
_PLACES = PLACES | {"split_file", "shard_file"}
# handlers that only talk; those that write or test are known by what they refer to
_TALKERS = ("ChainProgressBar", "CostReporter", "StatsHandler")
_REFERENCES = ("@output_dir", "@test#", "@test::")
# of the bundle's own run alone: trials have fewer keys in use, and errors go to the command line
_NOT_IN_A_TRIAL = ("refuse_unused_keys", "show_cause_last")


class TunedBundle:
    """The training of a bundle, to be repeated with other values, and without its test split.

    The data list and the plan are made once. The plan is made without the test labels, and the test items are then
    taken out of the data list: no trial can reach them.

    Args:
        bundle: the bundle's folder.
        dataset_dir: the data.
        cache_dir: folder for decoded images where the configuration names none; all trials share it.
        overlays: configuration files that are merged into ``configs/train.json``, in their order: paths, or names of
            files in ``configs``.
        changes: what to set in the configuration, by key.
        parameters: what is tuned.
        seed: seed by which validation labels are left out, default 0.

    Raises:
        ValueError: When a file is missing, a key is not one of the configuration's, or a tuned key is set as well.
        ValueError: When a trial would choose its own labels, or the data cannot be planned.

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
        self.files = training_files(bundle, overlays)
        self.parameters = tuple(parameters)
        self.overrides = {"bundle_root": str(bundle), "dataset_dir": str(dataset_dir), **(changes or {})}
        parser = ConfigParser()
        parser.read_config(self.files)
        self._check_keys(parser, changes or {})
        # of an active chain each trial would ask for other labels, and all trials together for more than are paid for
        self.replaced_selection: str | None = None
        active = parser.get("selection", "random") != "random" and parser.get("shard_file") is None
        if active and not {"selection", "shard_file"} & self.overrides.keys():
            self.replaced_selection, self.overrides["selection"] = parser["selection"], "random"
        parser.update(pairs=self.overrides)
        _refuse_unused(parser)
        if not parser.get("validate#evaluator"):
            raise ValueError("validate#evaluator: expected an evaluator, got none. Tuning needs a validation.")
        if "cache_dir" in parser and parser["cache_dir"] is None:
            parser["cache_dir"] = self.overrides["cache_dir"] = str(cache_dir)
        # as it is now: planning puts objects into it
        self.config = {key: deepcopy(value) for key, value in parser.get().items() if key not in _PLACES}
        with one_error():
            self._plan(parser, seed)
            self.temperature = {
                name: parser.get_parsed_content(f"temperature_{name}")
                for name in ("end", "shape")
                if f"temperature_{name}" in parser
            }
            self.own_values = {item.name: parser.get_parsed_content(item.name) for item in self.parameters}
            self.epochs = divide_epochs(
                parser.get_parsed_content("train#trainer#max_epochs"),
                self.plan.settings.num_stages,
                parser.get_parsed_content("train#trainer#stage_epochs", default=None),
            )
            better = parser.get("validate#evaluator#metric_cmp_fn")
            better = better and parser.get_parsed_content("validate#evaluator#metric_cmp_fn")
        self.lower_is_better = callable(better) and not better(1.0, 0.0)

    def overlay(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration overlay that sets tuned values.

        Args:
            values: values of the parameters, by name.

        """
        return complete_temperature(values, **self.temperature) if self.temperature else dict(values)

    @property
    def knows_own_values(self) -> bool:
        """Whether the configuration's own values are among those that a trial may try."""
        return all(parameter.holds(self.own_values[parameter.name]) for parameter in self.parameters)

    @property
    def warmup_epochs(self) -> int:
        """Epochs in which no trial is to be pruned, those before the first one under a teacher has ended."""
        return self.epochs[0] + 1

    @property
    def settings(self) -> dict[str, Any]:
        """What decides a trial's result beside the tuned values, as JSON can hold it."""
        found = {key: _short(value) for key, value in self.config.items()}
        return {**found, "data and plan": self.plan.digest[:12]}

    def workflow(self, values: Mapping[str, Any]) -> ConfigWorkflow:
        """Return a training of the bundle that is ready to be initialized: without files, report and test.

        Args:
            values: values of the parameters, by name.

        """
        workflow = ConfigWorkflow(
            [str(file) for file in self.files],
            workflow_type="train",
            logging_file=False,
            **{**self.overrides, **self.overlay(values)},
        )
        config = workflow.parser.get()
        config.pop("test", None)
        config.update(datalist=self.datalist, plan=self.plan)
        config["initialize"] = [
            step for step in config.get("initialize", []) if not any(name in step for name in _NOT_IN_A_TRIAL)
        ]
        for part in ("train", "validate"):
            if isinstance(config[part].get("handlers"), list):
                config[part]["handlers"] = list(_needed(config[part]["handlers"]))
        workflow.parser.set(config)
        return workflow

    def _check_keys(self, parser: ConfigParser, changes: Mapping[str, Any]) -> None:
        keys = [str(key) for key in parser.get()]
        for parameter in self.parameters:
            if parameter.name not in keys:
                raise ValueError(f"parameters: expected keys of {self.files[0]}, got {parameter.name!r}. Leave it out.")
        for key in changes:
            if key not in parser:
                raise ValueError(f"set: expected a key of {self.files[0]}, got {key!r}. {_nearest_key(key, keys)}")
            if key in [parameter.name for parameter in self.parameters]:
                raise ValueError(f"set: expected a key that is not tuned, got {key!r}. Leave it out of --parameters.")

    def _plan(self, parser: ConfigParser, seed: int) -> None:
        datalist = parser.get_parsed_content("datalist")
        if "_target_" not in (parser.get("plan") or {}):
            raise ValueError(
                "plan: expected monai_weckd.plan_chain with its arguments, got an expression. Spell it out."
            )
        oracle = BlindOracle(datalist.items, num_classes=len(datalist.classes))
        parser["plan#oracle"] = oracle
        parser["datalist"] = datalist
        whole: ChainPlan = parser.get_parsed_content("plan")
        if whole.settings.selection not in ("random", "given"):
            raise ValueError(
                f"selection: expected 'random' or a shard_file, got {whole.settings.selection!r}: every trial "
                "would ask for other labels. Pass --set selection=random, or --set plan#shards=path/to/plan.json."
            )
        self.whole_plan, self.plan = whole, limit_validation(whole, oracle, seed=seed)
        reachable = {*whole.train, *self.plan.val}
        self.datalist = datalist._replace(items=[item for item in datalist.items if item["id"] in reachable])


def _nearest_key(key: str, keys: list[str]) -> str:
    """Return a hint at the key that was meant; a list of all would be too long."""
    hint = nearest(key, keys)
    return hint if hint.startswith("Did") else "See its top level."


def _refuse_unused(parser: ConfigParser) -> None:
    for key, hint in unused_keys(parser.get()).items():
        raise ValueError(f"{key}: expected a key that the configuration uses, got one that nothing reads. {hint}")


def _needed(handlers: Iterable[Any]) -> Iterator[Any]:
    """Yield the configurations of the handlers that a training needs: those that neither write nor talk nor test."""
    for handler in handlers:
        text = json.dumps(handler)
        name = handler.get("_target_", "").rpartition(".")[2] if isinstance(handler, dict) else ""
        if name not in _TALKERS and not any(reference in text for reference in _REFERENCES):
            yield handler


def _short(value: Any) -> Any:
    """Return a number or a short text as it is, and of anything else a digest."""
    if value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= 80):
        return value
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else f"digest {hashlib.sha256(text.encode()).hexdigest()[:12]}"
