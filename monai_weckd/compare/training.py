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

"""Train a bundle repeatedly, with other splits, seeds and settings."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from monai_weckd import __version__
from monai_weckd.bundle.config import BundleConfig
from monai_weckd.compare.arms import Arm, ChainSize, arm_overrides
from monai_weckd.compare.folds import FoldSplit
from monai_weckd.compare.pool_share import PoolShare
from monai_weckd.data.datalist import Datalist, plan_datalist
from monai_weckd.data.embedding import EmbeddingDataset
from monai_weckd.data.item_level import images_in
from monai_weckd.data.manifest import manifest_columns
from monai_weckd.data.split_file import holds_folds, read_folds
from monai_weckd.engines.label_task import LabelTask, task_of
from monai_weckd.plan.checks import PlanError
from monai_weckd.plan.label_kind import plain_label
from monai_weckd.plan.oracle import is_labeled
from monai_weckd.plan.splits import group_of
from monai_weckd.plan.stages import divide_labels
from monai_weckd.utils.draws import hash_fraction
from monai_weckd.utils.literals import literal

__all__ = ["BundleSource", "ComparedBundle"]

_SEEDS = 1000
# merged into train.json, whose heads are solved, it trains step by step
_SCRATCH = "scratch.json"
# a solved stage is one iteration, so changes of these keys are for trainings step by step
_STEPS = ("max_epochs", "iterations_per_epoch")
# keys that decide which labels are used, in both kinds of configurations
_LABELS = ("seed", "num_stages", "label_fraction", "selection", "plan")
# kinds of arms by whether heads are solved
_KINDS = {True: "solved", False: "trained"}


# keys whose values are paths, which may be relative to the working directory of this process
_PATHS = ("split_file", "cache_dir", "backbone_path")
# the bundles that jobs of this process have opened; the last one is kept, since its data list has been verified
_open: dict[BundleSource, ComparedBundle] = {}


class BundleSource(NamedTuple):
    """Where another process finds the same bundle and data.

    Args:
        bundle: the bundle's folder.
        dataset_dir: the data.
        overlays: configuration files.
        changes: values to set, as JSON.
        fingerprint: digest of configuration and data list, by which that process knows that they are the same.

    """

    bundle: str
    dataset_dir: str
    overlays: tuple[str, ...]
    changes: str
    fingerprint: str

    def open(self) -> ComparedBundle:
        """Return the bundle, the same object each time in one process.

        Raises:
            ValueError: When bundle or data are not those of the process that made this.

        """
        if self not in _open:
            changes = json.loads(self.changes)
            found = ComparedBundle(self.bundle, self.dataset_dir, overlays=self.overlays, changes=changes)
            if found.source != self:
                raise ValueError(
                    f"worker: expected the bundle, data and version of the first machine, got others in "
                    f"{self.bundle!r} or {self.dataset_dir!r} on {platform.node()}. Make them the same."
                )
        return _open[self]


class ComparedBundle:
    """Train a bundle repeatedly, with other splits, seeds and settings.

    The data list is read once, and its images are verified once. An arm changes the configuration of its kind: heads
    are solved, or a network is trained step by step. For the kind that is not configured, this is ``train.json`` or
    ``train.json`` with ``scratch.json``, with the labels of the configured chain.

    Args:
        bundle: the bundle's folder.
        dataset_dir: the data.
        overlays: configuration files to merge into ``configs/train.json``, in order: paths, or names of files in
            ``configs``.
        changes: values to set, by key, in each kind of configuration that has the key. The number of steps is not set
            where heads are solved.

    Attributes:
        config: the configured chain.
        solved: whether its heads are solved.

    Raises:
        ValueError: When a file is missing, or a key is in no configuration.

    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        dataset_dir: str | os.PathLike[str],
        *,
        overlays: Sequence[str | os.PathLike[str]] = (),
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        self._bundle = bundle
        self._dataset_dir = dataset_dir
        self._overlays = [str(Path(path).absolute()) if Path(path).is_file() else str(path) for path in overlays]
        self._split_file: str | None = None
        self._prepared: dict[tuple[bool, str | None], set[tuple[str, str]]] = {}
        self._changes = {**(changes or {}), "dataset_dir": literal(str(dataset_dir))}
        self.config = self._read(overlays)
        self.solved = self.config.solves_heads
        for key, value in self._changes.items():
            if not self.config.takes(key) and not self._other.takes(key):
                self.config.set(key, value)  # raises the error that names the nearest key

    @cached_property
    def datalist(self) -> Datalist:
        """The items; unreadable ones are left out if the bundle is configured to skip them."""
        return self.config.value("datalist")

    @cached_property
    def folds(self) -> dict[str, str]:
        """The fold of each item by its id, from the split file, else from the manifest; empty if there are none."""
        if self._split_file is None:
            return manifest_columns(self._dataset_dir, ["fold"]).get("fold", {})
        return read_folds(self.datalist.items, self._split_file) if holds_folds(self._split_file) else {}

    @cached_property
    def source(self) -> BundleSource:
        """Where another process finds this bundle."""
        changes = {key: value for key, value in self._changes.items() if key != "dataset_dir"}
        for key in _PATHS:
            if isinstance(changes.get(key), str):
                changes[key] = str(Path(changes[key]).absolute())
        folder, data = (str(Path(path).absolute()) for path in (self._bundle, self._dataset_dir))
        parts = [self._plain(self.config), self._item_keys, self.datalist.classes, self.folds, __version__]
        fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
        found = BundleSource(
            folder, data, tuple(self._overlays), json.dumps(changes, sort_keys=True, default=str), fingerprint
        )
        _open.clear()
        _open[found] = self
        return found

    @property
    def _item_keys(self) -> list[tuple[str, Any, str, int]]:
        return [
            (item["id"], plain_label(item["label"]), group_of(item), len(images_in(item)))
            for item in self.datalist.items
        ]

    @staticmethod
    def _plain(config: BundleConfig) -> dict[str, Any]:
        # the splits themselves count, and not the file that names them
        return {key: value for key, value in config.plain().items() if key != "split_file"}

    @cached_property
    def task(self) -> LabelTask:
        """What depends on the kind of the labels."""
        return task_of(self.datalist.kind)

    @property
    def size(self) -> ChainSize:
        """The amount of training and labels of the configured chain."""
        return _size(self.config)

    @cached_property
    def groups(self) -> dict[str, str]:
        """The group of each item, by its id."""
        return {item["id"]: group_of(item) for item in self.datalist.items}

    def items_of(self, split: FoldSplit) -> list[dict[str, Any]]:
        """Return the items with their splits.

        Args:
            split: the split.

        """
        parts = split.split_of
        return [{**item, "split": parts[item["id"]]} for item in self.datalist.items if item["id"] in parts]

    def run_seed(self, split: FoldSplit, seed: int) -> int:
        """Return the seed of the runs on one split, the first one for which random shards hold every class.

        Each split has its own seeds; with the same seed, all splits would draw nearly the same labels.

        Args:
            split: the split.
            seed: number of the seed.

        Raises:
            ValueError: When no seed achieves this.

        """
        settings, items = self.size.plan, self.items_of(split)
        problem = ""
        for attempt in range(_SEEDS):
            number = int(hash_fraction(seed, f"run {split.repeat} {split.fold} {attempt}", "") * 2**31)
            try:
                for wanted in (settings, replace(settings, num_stages=1, selection="random")):
                    plan_datalist(self.datalist._replace(items=items), replace(wanted, seed=number))
            except PlanError as error:
                problem = str(error)
            else:
                return number
        raise ValueError(f"{problem} (None of {_SEEDS} seeds does better.)")

    def config_of(self, arm: Arm) -> BundleConfig:
        """Return the configuration that an arm changes.

        Args:
            arm: the arm.

        Raises:
            ValueError: When the bundle has no configuration of the arm's kind.

        """
        return self.config if arm.kind in ("configured", _KINDS[self.solved]) else self._other

    def fault(self, arm: Arm) -> str:
        """Return why this bundle cannot run an arm; empty if it can.

        Args:
            arm: the arm.

        """
        if arm.file is not None and not (self.config.root / "configs" / f"{arm.file}.json").is_file():
            return f"{self.config.root.name} has no configs/{arm.file}.json"
        return arm.one_class if self.datalist.kind.findings else ""

    def copy_of(self, arm: Arm, changes: Mapping[str, Any], **objects: Any) -> BundleConfig:
        """Return a changed copy of the configuration of an arm.

        Args:
            arm: the arm.
            changes: values to set, by key; the arm's overlay may add keys at the top.
            objects: objects that replace top-level parts.

        """
        config = self.config_of(arm)
        added = {key: value for key, value in changes.items() if "#" not in key and not config.takes(key)}
        known = {key: value for key, value in changes.items() if key not in added}
        return config.copy(known, **added, **objects)

    def overrides(self, arm: Arm, split: FoldSplit) -> dict[str, Any]:
        """Return the changes of an arm to the configuration on one split, except labels from other runs.

        Args:
            arm: the arm.
            split: the split.

        Raises:
            ValueError: When the bundle lacks the arm's file.

        """
        overlay = None
        if arm.file is not None:
            overlay = self.config.overlay(f"{arm.file}.json")
        training = [item for item in self.datalist.items if split.split_of.get(item["id"]) == "train"]
        labeled = sum(map(is_labeled, training))
        kind = self.datalist.kind
        sizes = {"items": len(training), "labeled": labeled, "least": kind.fewest}
        shards = divide_labels(self.size.plan, len(kind.names), **sizes)
        return arm_overrides(arm, _size(self.config_of(arm)), shards=shards, labeled=labeled, overlay=overlay)

    def digest(self, arm: Arm, split: FoldSplit, *, seed: int, needs: Sequence[str] = ()) -> str:
        """Return a digest of everything that determines the result of a run, except the images themselves.

        Args:
            arm: the arm.
            split: the split.
            seed: the seed of the run.
            needs: digests of the runs that this run uses, default none.

        """
        parts = {
            "config": self._plain(self.config_of(arm)),
            "overrides": self.overrides(arm, split),
            "members": arm.members,
            "split": dict(split.split_of),
            "items": self._item_keys,
            "classes": self.datalist.classes,
            "seed": seed,
            "needs": list(needs),
            "version": __version__,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def train(
        self, arm: Arm, split: FoldSplit, output_dir: Path, overrides: Mapping[str, Any], *, cache_dir: Path
    ) -> None:
        """Train once in this process, without the handlers that a comparison does not need.

        Args:
            arm: the arm.
            split: the split.
            output_dir: folder for the run's files, which must not exist.
            overrides: changes to the configuration, by key.
            cache_dir: folder for decoded images if the configuration names none.

        """
        output_dir.mkdir(parents=True)
        changes = {**overrides, "output_dir": literal(str(output_dir))}
        if self.config_of(arm)["cache_dir"] is None:
            changes["cache_dir"] = literal(str(cache_dir))
        copy = self.copy_of(arm, changes, datalist=self.datalist._replace(items=self.items_of(split)))
        trainer = copy.trainer()
        share = PoolShare(copy.value("train#trainer#loss_function"))
        trainer.run()
        share.write(output_dir)
        # engines and handlers form reference cycles, so hundreds of networks would wait for the collector; freezing
        # spares it older objects. A failed run skips both: its traceback holds its networks, which must not be frozen
        gc.collect()
        gc.freeze()

    def prepare(self, arm: Arm, split: FoldSplit, *, cache_dir: Path) -> None:
        """Decode the images that no earlier run of this process used, and embed them if the backbone is frozen.

        They go into the cache, from which all runs read them, so this time is not charged to any one arm.

        Args:
            arm: the arm.
            split: the split.
            cache_dir: folder for decoded images if the configuration names none.

        """
        config = self.config_of(arm)
        # the test items are read without the range of values that training has
        wanted = {(key, "train" if part == "train" else "test") for key, part in split.split_of.items()}
        done = self._prepared.setdefault((config is self.config, arm.file), set())
        if wanted <= done:
            return
        items = {item["id"]: item for item in self.datalist.items}
        listed = [{**items[key], "split": part} for key, part in sorted(wanted)]
        changes = dict(self.config.overlay(f"{arm.file}.json")) if arm.file is not None else {}
        if config["cache_dir"] is None:
            changes["cache_dir"] = literal(str(cache_dir))
        changes["test#absent"] = False
        for part in ("train", "test"):
            changes[f"{part}#dataset#data"] = f"$[item for item in @datalist.items if item['split'] == '{part}']"
        copy = self.copy_of(arm, changes, datalist=self.datalist._replace(items=listed))
        for key in ("imports", "initialize"):
            copy.value(key)
        for key in ("train#dataloader#dataset", "test#dataloader#dataset"):
            dataset = copy.value(key)
            if isinstance(dataset, EmbeddingDataset):
                dataset.fill(dataset.backbone.fingerprint())
        done |= wanted

    @cached_property
    def _other(self) -> BundleConfig:
        """The bundle's own configuration of the other kind, with the labels of the configured chain."""
        other = self._read([_SCRATCH] if self.solved else [])
        if other.solves_heads == self.solved:
            wanted = "train.json with scratch.json to train step by step" if self.solved else "train.json to solve"
            raise ValueError(f"bundle: expected {wanted}, got another in {other.root}. Leave out arms that need it.")
        for key in _LABELS:
            if key in self.config:
                other.set(key, self.config[key])
        return other

    def _read(self, overlays: Sequence[str | os.PathLike[str]]) -> BundleConfig:
        """Return a configuration with those of the changes whose keys it takes."""
        config = BundleConfig(self._bundle, overlays=overlays)
        steps = {key: config[key] for key in _STEPS if key in config}
        for key, value in self._changes.items():
            if config.takes(key):
                config.set(key, value)
        for key, value in steps.items() if config.solves_heads else ():
            config.set(key, value)
        self._split_file = config.value("split_file") if "split_file" in config else None
        if self._split_file is not None and holds_folds(self._split_file):
            # folds are not splits: the data list is read without them
            config.set("split_file", None)
        # these runs are short and unattended: they need no progress output and no checkpoints
        config.leave_out("train#monitors", "train#checkpoint")
        config.set("train#recorder#target_layer", None)
        return config


def _size(config: BundleConfig) -> ChainSize:
    return ChainSize(config.value("plan#settings"), config.value("chain"), config.value("max_epochs"))
