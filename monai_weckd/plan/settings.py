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
from monai_weckd.utils.options import check_choices, option

__all__ = ["PlanSettings"]


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
    label_fraction: float = option(0.1, "size of a shard, as a fraction of the labeled training items in (0, 1]")
    policy: str = option(
        "disjoint",
        "what a stage trains on: its own shard, its own and all earlier ones, or the first one",
        choices=("disjoint", "cumulative", "shared"),
    )
    shard_by: str = option(
        "item", "what shards are drawn from: single items, or whole groups", choices=("item", "group")
    )
    stratify: bool = option(
        True, "give each random shard the class proportions of the training items, whose labels are read for it"
    )
    selection: str = option(
        "random",
        "how shards are chosen: at random when the plan is made, or by a strategy when their stage starts; "
        "given: by whoever made the plan",
        choices=("given", *STRATEGIES),
    )
    missing_classes: str = option(
        "error", "what to do about a random shard without a label of some class", choices=("error", "allow")
    )
    val_fraction: float = option(0.15, "expected fraction of groups in validation")
    test_fraction: float = option(0.25, "expected fraction of groups in the test split")
    seed: int = option(0, "seed of splits and shards")

    def __post_init__(self) -> None:
        check_choices(self)
        self._check_numbers()
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                "val_fraction, test_fraction: expected a sum below 1, "
                f"got {self.val_fraction} + {self.test_fraction}. Leave groups for training."
            )
        if self.shard_by == "group" and self.selection not in ("random", "given"):
            raise ValueError(
                f"shard_by: expected 'item' with selection={self.selection!r}, got 'group'. A teacher asks for items."
            )

    def _check_numbers(self) -> None:
        for name in ("seed", "num_stages"):
            value = getattr(self, name)
            if not isinstance(value, int) or (name == "num_stages" and value < 1):
                least = "of at least 1" if name == "num_stages" else "of any size"
                raise ValueError(f"{name}: expected an integer {least}, got {value!r}. Pass such a number.")
        for name in ("label_fraction", "val_fraction", "test_fraction"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise ValueError(f"{name}: expected a fraction in (0, 1], got {value!r}. Pass such a number.")
