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
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from monai_weckd.bundle.config import find_overlay, training_files
from monai_weckd.bundle.identity import PLACES
from monai_weckd.compare.arms import Arm, ChainSize, arm_overrides
from monai_weckd.compare.folds import FoldSplit
from monai_weckd.data.datalist import Datalist
from monai_weckd.plan.checks import PlanError
from monai_weckd.plan.oracle import is_labeled
from monai_weckd.plan.planner import plan_chain
from monai_weckd.plan.splits import group_of
from monai_weckd.utils.draws import hash_fraction
from monai_weckd.utils.messages import nearest

__all__ = ["ComparedBundle"]

# handlers that a comparison does not need: they talk, or write what nobody would read
_TALKERS = (
    "ChainCheckpoint",
    "ChainProgressBar",
    "CostReporter",
    "StatsHandler",
    "TensorBoardStatsHandler",
    "TensorBoardImageHandler",
)
# what nothing reads when they are gone
_UNREAD = ("_meta_", "checkpoint_interval")
_SEEDS = 1000


class ComparedBundle:
    """The training of a bundle, to be repeated with other splits, seeds and settings.

    The data list is read, and its images are verified, once.

    Args:
        bundle: the bundle's folder.
        dataset_dir: the data.
        overlays: configuration files that are put on ``configs/train.json``, in their order: paths, or names of files
            in ``configs``.
        changes: what to set in the configuration, by key.

    Raises:
        ValueError: When there is no such file, or the configuration has no such key.

    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        dataset_dir: str | os.PathLike[str],
        *,
        overlays: Sequence[str | os.PathLike[str]] = (),
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        self.root = Path(bundle)
        self.dataset_dir = Path(dataset_dir)
        files = training_files(bundle, overlays)
        self.parser = ConfigParser()
        self.parser.read_config(files)
        places = {"bundle_root": str(self.root), "dataset_dir": str(self.dataset_dir)}
        for key, value in {**(changes or {}), **places}.items():
            if key not in self.parser:
                hint = nearest(key, list(self.parser.get()))
                raise ValueError(f"set: expected a key of {files[0]}, got {key!r}. {hint}")
            self.parser[key] = value
        self.config: dict[str, Any] = deepcopy(self.parser.get())
        self.parser.get_parsed_content("imports")

    @cached_property
    def datalist(self) -> Datalist:
        """The items, of which those that cannot be read are left out if the bundle does so."""
        return self.parser.get_parsed_content("datalist")

    @cached_property
    def size(self) -> ChainSize:
        """How much the configured chain trains, on how many labels."""
        names = [field.name for field in fields(ChainSize) if field.name in self.config]
        return ChainSize(**{name: self.parser.get_parsed_content(name) for name in names})

    @cached_property
    def groups(self) -> dict[str, str]:
        """The group of each item, by its id."""
        return {item["id"]: group_of(item) for item in self.datalist.items}

    def splits_of(self, split: FoldSplit) -> dict[str, str]:
        """Return the content of a split file: items that cannot be read must be in some split, too.

        Args:
            split: the split.

        """
        return {**dict.fromkeys(self.datalist.skipped, "train"), **split.split_of}

    def run_seed(self, split: FoldSplit, seed: int) -> int:
        """Return the seed of the runs on one split: the first for which random shards hold every class.

        Each split has seeds of its own; with the same seed, all splits would draw nearly the same labels.

        Args:
            split: the split.
            seed: number of the seed.

        Raises:
            ValueError: When no seed does.

        """
        settings = self.parser.get_parsed_content("plan#settings")
        items = [{**item, "split": split.split_of[item["id"]]} for item in self.datalist.items]
        problem = ""
        for attempt in range(_SEEDS):
            number = int(hash_fraction(seed, f"run {split.repeat} {split.fold} {attempt}", "") * 2**31)
            try:
                for change in ({}, {"num_stages": 1, "selection": "random"}):
                    plan_chain(items, replace(settings, seed=number, **change), classes=self.datalist.classes)
            except PlanError as error:
                problem = str(error)
            else:
                return number
        raise ValueError(f"{problem} (No one of {_SEEDS} seeds does better.)")

    def overrides(self, arm: Arm, split: FoldSplit) -> dict[str, Any]:
        """Return what an arm changes in the configuration on one split, labels of other runs apart.

        Args:
            arm: the arm.
            split: the split.

        Raises:
            ValueError: When the bundle lacks the arm's file.

        """
        overlay = None
        if arm.file is not None:
            overlay = ConfigParser.load_config_file(str(find_overlay(self.root, f"{arm.file}.json")))
        labeled = sum(is_labeled(item) and split.split_of[item["id"]] == "train" for item in self.datalist.items)
        return arm_overrides(arm, self.size, labeled=labeled, keys=self.config, overlay=overlay)

    def digest(self, arm: Arm, split: FoldSplit, *, seed: int, needs: str | None = None) -> str:
        """Return a digest of all that decides about the result of a run, but for the images themselves.

        Args:
            arm: the arm.
            split: the split.
            seed: the seed that the run is given.
            needs: digest of the run whose labels it uses, default None.

        """
        items = [(item["id"], item["label"], group_of(item)) for item in self.datalist.items]
        parts = {
            "config": {key: value for key, value in self.config.items() if key not in PLACES},
            "overrides": self.overrides(arm, split),
            "members": arm.members,
            "split": dict(split.split_of),
            "items": items,
            "classes": self.datalist.classes,
            "seed": seed,
            "needs": needs,
            "version": importlib.metadata.version("monai_weckd"),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def train(self, output_dir: Path, overrides: Mapping[str, Any], *, cache_dir: Path) -> None:
        """Train once, in this process, with no more than a comparison needs.

        Args:
            output_dir: folder for the run's files, to be made; the configuration is written beside it.
            overrides: what to change in the configuration, by key.
            cache_dir: folder for decoded images, where the configuration names none.

        """
        settings = {**self._trimmed(overrides), **overrides}
        if self.config.get("cache_dir") is None:
            settings["cache_dir"] = str(cache_dir)
        # from memory: whoever edits the bundle during a long comparison does not change its later runs
        path = output_dir.with_name(f"{output_dir.name}.json")
        path.write_text(json.dumps({key: value for key, value in self.config.items() if key not in _UNREAD}))
        self._run(path, {**settings, "output_dir": str(output_dir)})
        # engines and handlers refer to each other: hundreds of networks would wait for the collector, which need not
        # look at what was there before; those of a run that fails are still in its traceback, and never to be frozen
        gc.collect()
        gc.freeze()

    def _run(self, path: Path, settings: Mapping[str, Any]) -> None:
        meta = str(self.root / "configs" / "metadata.json")
        workflow = ConfigWorkflow(str(path), meta, workflow_type="train", logging_file=False, **settings)
        workflow.initialize()
        workflow.run()

    def _trimmed(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        config = deepcopy(self.config)
        found: dict[str, Any] = {
            "run": [step for step in config["run"] if "write_report" not in step],
            "initialize": [step for step in config["initialize"] if "show_cause_last" not in step],
        }
        handlers = []
        for handler in config["train"]["handlers"]:
            name = handler["_target_"].rpartition(".")[2] if isinstance(handler, dict) else ""
            if name == "ChainRecorder":
                handler["target_layer"] = None
            if name not in _TALKERS:
                handlers.append(handler)
        if not {**config, **overrides}.get("attention_weight") and "feature_layer" in config:
            found["feature_layer"] = None
        return {**found, "train#handlers": handlers}
