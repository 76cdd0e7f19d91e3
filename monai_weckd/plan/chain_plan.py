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

"""The plan of a chain: its splits and stages, and its JSON form."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.plan.oracle import index_items
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.plan.splits import SPLITS
from monai_weckd.utils.messages import nearest
from monai_weckd.utils.records import json_digest, sealed_json

__all__ = ["ChainPlan", "StagePlan", "divide_shards"]

_FORMAT = 2
_ANEW = "Make the plan anew with `python -m monai_weckd plan`."


@dataclass(frozen=True)
class StagePlan:
    """One stage of a plan.

    Args:
        stage: stage number, from 1.
        new: ids whose labels the stage brings in, its shard.
        labeled: ids whose labels the stage trains on; empty until its shard has been drawn.
        asked: for each id in ``new``, the places of the findings that are asked for; empty: all.

    """

    stage: int
    new: tuple[str, ...]
    labeled: tuple[str, ...]
    asked: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class ChainPlan:
    """The plan of a chain: the splits, and the labels of each stage. Use :py:func:`plan_chain` to create one.

    Args:
        classes: names of the classes, or of the findings, in the order of their indices.
        settings: settings of the plan.
        shard_sizes: number of labels that each stage brings in; with ``policy="shared"``, the first one alone.
        train: ids of the training items, labeled and unlabeled, sorted.
        val: ids of the validation items, sorted.
        test: ids of the test items, sorted.
        stages: the stages in order.
        skipped: ids of items that could not be read.
        unused: ids of unlabeled items in validation and test, which are not used; only explicit splits and
            those of an earlier plan have any.
        split_by_label: whether the labels of all items were read to split them.
        findings: whether ``classes`` are findings, of which an image may show several or none.

    """

    classes: tuple[str, ...]
    settings: PlanSettings
    shard_sizes: tuple[int, ...] = ()
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    stages: tuple[StagePlan, ...] = ()
    skipped: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    split_by_label: bool = False
    findings: bool = False

    @property
    def kind(self) -> LabelKind:
        """The kind of the labels."""
        return LabelKind(self.classes, self.findings)

    @property
    def asked(self) -> dict[str, tuple[int, ...]]:
        """Places of the findings that are asked for, by id of a training item; all of those that are not in it."""
        pairs = (zip(stage.new, stage.asked, strict=False) for stage in self.stages)
        return {key: places for part in pairs for key, places in part}

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's canonical JSON, in hexadecimal; equal plans have equal digests."""
        return json_digest(self._fields())

    @property
    def label_budget(self) -> dict[str, int]:
        """Number of distinct labels that training and validation use, or will use."""
        drawn = len({key for stage in self.stages for key in stage.new})
        return {"train": drawn if self.undrawn is None else sum(self.shard_sizes), "val": len(self.val)}

    @property
    def purposes(self) -> tuple[str, ...]:
        """Purposes for which planning has read the labels of all training items, as the ledger names them."""
        read = {"split": self.split_by_label, "stratification": self.settings.stratify}
        return tuple(purpose for purpose, was_read in read.items() if was_read)

    @property
    def shard_size(self) -> int:
        """Number of labels in the largest shard."""
        return max(self.shard_sizes, default=0)

    @property
    def undrawn(self) -> int | None:
        """The first stage whose shard has not been drawn, or None if all have been."""
        return next((stage.stage for stage in self.stages if not stage.labeled), None)

    def num_labeled(self, stage: int) -> int:
        """Return how many labels a stage trains on, or will train on.

        Args:
            stage: stage number, from 1.

        """
        first = stage - 1 if self.settings.policy == "disjoint" else 0
        return len(self.stages[stage - 1].labeled) or sum(self.shard_sizes[first:stage])

    def size_of(self, stage: int) -> int:
        """Return how many labels a stage brings in, or will bring in.

        Args:
            stage: stage number, from 1.

        """
        return self.shard_sizes[stage - 1] if stage <= len(self.shard_sizes) else 0

    def draw(self, stage: int, ids: Collection[str], asked: Mapping[str, tuple[int, ...]] | None = None) -> ChainPlan:
        """Return the plan with a chosen shard; its stage must be the first one without a shard.

        Args:
            stage: stage number, from 1.
            ids: ids of as many training items as :py:meth:`size_of` says.
            asked: places of the findings that are asked for, by id, default None: all of them.

        Raises:
            ValueError: When the stage has a shard, when another stage is next, or when the ids are invalid.

        """
        if stage != self.undrawn:
            raise ValueError(f"stage: expected {self.undrawn}, whose shard is next, got {stage}. Draw them in turn.")
        known = {key for part in self.stages for key in part.new}
        chosen = set(ids)
        if len(chosen) != self.size_of(stage) or not chosen <= set(self.train) or chosen & known:
            raise ValueError(
                f"ids: expected {self.size_of(stage)} training items that no stage has yet, got {len(chosen)}, "
                f"{len(chosen - set(self.train))} of them not in training and {len(chosen & known)} used before. "
                "Choose others."
            )
        shards = [part.new for part in self.stages[: stage - 1]]
        plan = replace(self, stages=divide_shards([*shards, tuple(sorted(chosen))], self))
        return plan.asking({**self.asked, **(asked or {})})

    def asking(self, asked: Mapping[str, tuple[int, ...]]) -> ChainPlan:
        """Return the plan with some findings asked for.

        Args:
            asked: their places by id of all items in the shards so far; if empty, all findings are asked for.

        """
        if not asked:
            return self
        stages = (replace(stage, asked=tuple(asked[key] for key in stage.new)) for stage in self.stages)
        return replace(self, stages=tuple(stages))

    def pool(self, stage: int) -> tuple[str, ...]:
        """Return the training ids whose labels a stage does not see.

        Args:
            stage: stage number, from 1.

        Raises:
            ValueError: When there is no such stage.

        """
        if not 1 <= stage <= len(self.stages):
            raise ValueError(f"stage: expected a number from 1 to {len(self.stages)}, got {stage!r}. Count from 1.")
        labeled = set(self.stages[stage - 1].labeled)
        return tuple(key for key in self.train if key not in labeled)

    def select(self, items: Iterable[Mapping[str, Any]], split: str) -> list[dict[str, Any]]:
        """Return the items of a split, in the plan's order.

        Args:
            items: the items that the plan was made from.
            split: "train", "val" or "test".

        Raises:
            ValueError: When ``split`` is unknown, or an item of it is not among ``items``.

        """
        if split not in SPLITS:
            raise ValueError(f"split: expected one of {SPLITS}, got {split!r}. {nearest(split, SPLITS)}")
        index = index_items(items)
        absent = [key for key in getattr(self, split) if key not in index]
        if absent:
            raise ValueError(
                f"items: expected all {len(getattr(self, split))} of {split}, got none for {len(absent)}, "
                f"first {absent[0]!r}. Use the items that the plan was made from."
            )
        return [dict(index[key]) for key in getattr(self, split)]

    def to_json(self) -> str:
        """Return the plan as JSON, with its digest."""
        return sealed_json(self._fields(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> ChainPlan:
        """Return the plan that :py:meth:`to_json` wrote.

        Args:
            text: the JSON.

        Raises:
            ValueError: When it is not the JSON of a plan, or was changed after it was written.

        """
        content = _read_fields(text, [field.name for field in fields(cls) if field.name != "findings"])
        try:
            stages = tuple(
                StagePlan(
                    stage["stage"],
                    tuple(stage["new"]),
                    tuple(stage["labeled"]),
                    tuple(map(tuple, stage.get("asked", ()))),
                )
                for stage in content["stages"]
            )
            lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
            settings = PlanSettings(**content["settings"])
            return cls(**{**content, **lists, "settings": settings, "stages": stages})
        except (KeyError, TypeError) as error:
            raise ValueError(f"plan: expected the fields as they were written, got {error!r}. {_ANEW}") from error

    def _fields(self) -> dict[str, Any]:
        shallow = {field.name: getattr(self, field.name) for field in fields(self)}
        stages = [
            {key: value for key, value in vars(stage).items() if key != "asked" or value} for stage in self.stages
        ]
        settings = asdict(self.settings)
        if not self.findings:  # a plan of classes is as it was before there were findings
            del shallow["findings"], settings["findings_per_image"]
        return {"format": _FORMAT, **shallow, "settings": settings, "stages": stages}


def divide_shards(shards: Sequence[tuple[str, ...]], plan: ChainPlan) -> tuple[StagePlan, ...]:
    """Return the stages of a plan, given the shards drawn so far.

    Args:
        shards: the shards so far.
        plan: a plan, which gives the policy and the number of stages.

    """
    stages = []
    for number in range(1, plan.settings.num_stages + 1):
        new = shards[number - 1] if number <= len(shards) else ()
        known = tuple(sorted(key for shard in shards[:number] for key in shard))
        undrawn = number > len(shards) and plan.settings.policy != "shared"
        stages.append(StagePlan(number, new, () if undrawn else new if plan.settings.policy == "disjoint" else known))
    return tuple(stages)


def _read_fields(text: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a plan's JSON, without format and digest, after verifying the digest.

    Args:
        text: the JSON.
        names: names of the required fields.

    Raises:
        ValueError: When it is not a JSON object, has another format or other fields, or was changed.

    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"plan: expected JSON, got {error}. {_ANEW}") from error
    if not isinstance(content, dict):
        raise ValueError(f"plan: expected a JSON object, got {type(content).__name__}. {_ANEW}")
    version = content.pop("format", None)
    if version != _FORMAT:
        raise ValueError(f"plan: expected format {_FORMAT}, got {version!r}. {_ANEW}")
    expected = [*names, "digest"]
    if content.get("findings") is True:
        expected.append("findings")
    for name in expected:
        if name not in content:
            raise ValueError(f"plan: expected a field {name!r}, got none. {_ANEW}")
    for name in content:
        if name not in expected:
            raise ValueError(f"plan: expected no field {name!r}. {nearest(name, expected)}")
    digest, found = content.pop("digest"), json_digest({"format": version, **content})
    if digest != found:
        raise ValueError(f"plan: expected digest {found}, got {digest}: it was changed after it was made. {_ANEW}")
    return content
