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

"""The settings of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from monai_weckd.selection import STRATEGIES
from monai_weckd.utils.options import check_choices, check_types, option

__all__ = ["HELD_OUT_FROM", "PlanSettings"]

# with fewer labels, all are for training: a part held out would measure little and cost much
HELD_OUT_FROM = 500
_VAL_FRACTION, _TEST_FRACTION = 0.15, 0.25


@dataclass(frozen=True)
class PlanSettings:
    """Settings of a plan: splits, stages and the labels of each stage. Each field is an option of that name.

    Raises:
        ValueError: When a setting is out of its range, or two settings exclude each other.

    Example::

        >>> PlanSettings(shard_by="groop")
        Traceback (most recent call last):
        ValueError: shard_by: expected one of ('item', 'group'), got 'groop'. Did you mean 'group'?

    """

    num_stages: int = option(3, "number of stages")
    label_fraction: float = option(
        0.1, "labels of a shard, as a fraction in (0, 1] of the training items, labeled or not"
    )
    shard_size: int | None = option(None, "labels of a shard, in place of label_fraction")
    labels_per_class: int | None = option(
        None,
        "labels of a shard, as a multiple of the number of classes, in place of label_fraction",
    )
    findings_per_image: int | None = option(
        None, "findings that are asked for in a training image; by default all, and the others stay unknown"
    )
    policy: str = option(
        "disjoint",
        "what a stage trains on: its own shard, its own and all earlier ones, or the first one",
        choices=("disjoint", "cumulative", "shared"),
    )
    shard_by: str = option(
        "item",
        "what shards are drawn from: single items, or whole groups, which come as close to the size of a shard as "
        "possible, and exceed it only if each single group does",
        choices=("item", "group"),
    )
    stratify: bool = option(
        True, "give each random shard the class proportions of the training items, whose labels are read for it"
    )
    selection: str = option(
        "random",
        "how shards are chosen: at random when the plan is made, or by a strategy when their stage starts; "
        "given: by the author of the plan",
        choices=("given", *STRATEGIES),
    )
    missing_classes: str = option(
        "error", "what to do about a random shard without a label of some class", choices=("error", "allow")
    )
    val_fraction: float | None = option(
        None,
        "fraction of the labeled items in validation, 0 for none; "
        f"by default {_VAL_FRACTION} from {HELD_OUT_FROM} labels up, and none below",
    )
    test_fraction: float | None = option(
        None,
        "fraction of the labeled items in the test split, 0 for none; "
        f"by default {_TEST_FRACTION} from {HELD_OUT_FROM} labels up, and none below",
    )
    seed: int = option(0, "seed of splits and shards")

    def __post_init__(self) -> None:
        check_choices(self)
        self._check_numbers()
        check_types(self)
        self.held_out(0)
        if self.shard_size is not None and self.labels_per_class is not None:
            raise ValueError(
                f"labels_per_class: expected None with shard_size={self.shard_size}, got {self.labels_per_class}. "
                "Pass one of them."
            )
        if self.shard_by == "group" and self.selection not in ("random", "given"):
            raise ValueError(
                f"shard_by: expected 'item' with selection={self.selection!r}, got 'group'. A teacher asks for items."
            )

    def held_out(self, labels: int) -> tuple[float, float]:
        """Return the fractions of the labeled items in validation and in the test split.

        A fraction that was given takes precedence. Otherwise nothing is held out if fewer than 500 items have labels,
        since all of them are needed for training; from 500 up, it is 0.15 for validation and 0.25 for the test split.

        Args:
            labels: number of items with a label, before any is held out.

        Raises:
            ValueError: When nothing would be left for training.

        Example::

            >>> PlanSettings().held_out(499), PlanSettings(val_fraction=0.1).held_out(500)
            ((0.0, 0.0), (0.1, 0.25))

        """
        enough = labels >= HELD_OUT_FROM
        val, test = (
            (default if enough else 0.0) if given is None else given
            for given, default in ((self.val_fraction, _VAL_FRACTION), (self.test_fraction, _TEST_FRACTION))
        )
        if val + test >= 1:
            raise ValueError(
                f"val_fraction, test_fraction: expected a sum below 1, got {val} + {test}. Leave groups for training."
            )
        return val, test

    def _check_numbers(self) -> None:
        if not isinstance(self.seed, int):
            raise ValueError(f"seed: expected an integer of any size, got {self.seed!r}. Pass such a number.")
        for name in ("num_stages", "shard_size", "labels_per_class", "findings_per_image"):
            value = getattr(self, name)
            if not (value is None and name != "num_stages") and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}. Pass such a number.")
        if not isinstance(self.label_fraction, (int, float)) or not 0 < self.label_fraction <= 1:
            raise ValueError(
                f"label_fraction: expected a fraction in (0, 1], got {self.label_fraction!r}. Pass such a number."
            )
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and 0 <= value < 1):
                raise ValueError(f"{name}: expected a fraction in [0, 1), got {value!r}. Pass such a number.")
