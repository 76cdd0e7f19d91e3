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

"""Plan the next stage of a labeled chain: assign groups to splits, and put new labels into a shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monai_weckd.annotation.label_words import LabelWords
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.plan.oracle import LabelOracle
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.plan.splits import group_of
from monai_weckd.plan.stages import plan_stages
from monai_weckd.utils.draws import hash_fraction
from monai_weckd.utils.enums import SHARES

__all__ = ["GivenLabels", "plan_next_stage"]


@dataclass(frozen=True)
class GivenLabels:
    """The labels that each stage of an annotated chain has used so far.

    Args:
        split_of: permanent split of each group that ever had a label, "train" or "val".
        shards: ids that each stage has added, in the order of the stages.
        touched: ids whose label any stage has used, including labels that were withdrawn later.

    """

    split_of: Mapping[str, str] = field(default_factory=dict)
    shards: tuple[tuple[str, ...], ...] = ()
    touched: frozenset[str] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-compatible data."""
        return {
            "split_of": dict(self.split_of),
            "shards": list(map(list, self.shards)),
            "touched": sorted(self.touched),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> GivenLabels:
        """Return the record that :py:meth:`to_dict` wrote.

        Args:
            content: the dictionary.

        Raises:
            Exception: When it is of another form: a ValueError, KeyError or TypeError.

        """
        shards = tuple(map(tuple, content["shards"]))
        split_of, touched = dict(content["split_of"]), frozenset(content["touched"])
        texts = [*touched, *split_of, *(key for shard in shards for key in shard)]
        if not all(isinstance(text, str) for text in texts) or not set(split_of.values()) <= {"train", "val"}:
            raise ValueError("expected ids of images, and groups in train or val, got something else")
        return cls(split_of, shards, touched)


def plan_next_stage(
    items: Sequence[Mapping[str, Any]],
    labels: Mapping[str, str],
    given: GivenLabels,
    *,
    words: LabelWords,
    policy: str,
    val_fraction: float,
    seed: int,
    skipped: Sequence[str] = (),
) -> tuple[ChainPlan, GivenLabels]:
    """Plan one more stage of a chain; the labels that no stage has used form the new shard.

    With ``val_fraction`` 0, every newly labeled group is for training. Otherwise it is assigned to training or
    validation permanently, by a hash of its name: of each class, ``val_fraction`` of the groups are in validation, but
    at least one, and at least one group stays in training. Unlabeled images of training groups form the pool; those of
    validation groups are not used. A withdrawn label leaves its shard. A group with an image that was trained on stays
    in training, even under a new name.

    Args:
        items: all images, dictionaries with ``id`` and, where known, ``group``.
        labels: class of each labeled image by its id, in the order in which they were given.
        given: the labels that the stages have used so far.
        words: what labels mean.
        policy: labels that a stage trains on: "cumulative" or "disjoint".
        val_fraction: fraction of the labeled groups in validation, in [0, 1).
        seed: seed of the splits.
        skipped: ids of images that cannot be read, for the record.

    Returns:
        The plan (its items have no labels, see ``labeled_items``), and the labels used so far with those of the plan.

    Raises:
        ValueError: When a label is unknown, fewer than two classes have a labeled group for training (and one for
            validation, if there is any), no finding is known to be present and absent there, there is no new label for
            training, an earlier shard has no label left, or one of its images is now in a validation group.

    Example::

        >>> items = [{"id": name} for name in "abcdefgh"]
        >>> labels = {"a": "ill", "b": "well", "c": "ill", "d": "well"}
        >>> plan, given = plan_next_stage(
        ...     items,
        ...     labels,
        ...     GivenLabels(),
        ...     words=LabelWords(LabelKind(("ill", "well"))),
        ...     policy="cumulative",
        ...     val_fraction=0.25,
        ...     seed=0,
        ... )
        >>> len(plan.val), [len(stage.labeled) for stage in plan.stages], len(plan.pool(1))
        (2, [2], 4)

    """
    group = {item["id"]: group_of(item) for item in items}
    labels = {key: label for key, label in labels.items() if key in group}
    outcomes = {key: words.outcomes(words.spelled(label)) for key, label in labels.items()}
    # a new manifest may have renamed groups: images of earlier shards still count as trained
    trained = {group[key]: "train" for shard in given.shards for key in shard if key in labels}
    split_of = _assign(
        _of_groups(outcomes, group, words.kind),
        {**trained, **given.split_of},
        val_fraction=val_fraction,
        seed=seed,
    )
    train = tuple(sorted(key for key in group if split_of.get(group[key]) != "val"))
    known = [key for key in labels if split_of[group[key]] == "train"]
    old = [tuple(key for key in shard if key in labels) for shard in given.shards]
    brought = {key for shard in old for key in shard}
    shards = [*old, tuple(key for key in known if key not in brought)]
    _check(shards, outcomes, words.kind, group, split_of, validates=val_fraction > 0)
    plan = ChainPlan(
        classes=words.kind.names,
        findings=words.kind.findings,
        train=train,
        val=tuple(sorted(key for key in labels if split_of[group[key]] == "val")),
        skipped=tuple(skipped),
        unused=tuple(sorted(key for key in group if key not in labels and split_of.get(group[key]) == "val")),
        settings=PlanSettings(
            seed=seed,
            num_stages=len(shards),
            label_fraction=1.0,
            policy=policy,
            shard_by="item",
            stratify=False,
            selection="given",
            missing_classes="allow",
        ),
    )
    index = {item["id"]: item for item in labeled_items(items, labels, words)}
    plan = plan_stages(plan, index, LabelOracle(list(index.values()), findings=words.kind.findings), shards=shards)
    return plan, GivenLabels(split_of, tuple(shards), given.touched | labels.keys())


def labeled_items(
    items: Sequence[Mapping[str, Any]],
    labels: Mapping[str, str],
    words: LabelWords,
    *,
    shares: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Return items in the form of a data list, with their ``label`` or ``UNLABELED``.

    Args:
        items: dictionaries with ``id``.
        labels: label by id.
        words: what labels mean.
        shares: share of each class by id of the images whose readers differ, kept as ``shares``; default None: none.

    """
    found = [{**item, "group": group_of(item), "label": words.value(labels.get(item["id"]))} for item in items]
    for item in found:
        if shares and item["id"] in shares:
            item[SHARES] = words.shares(shares[item["id"]])
    return found


def _of_groups(
    outcomes: Mapping[str, Sequence[str]], group: Mapping[str, str], kind: LabelKind
) -> dict[str, tuple[str, ...]]:
    """Return the outcomes of each labeled group: its first class, or all that is known about findings in it."""
    found: dict[str, tuple[str, ...]] = {}
    for key, names in outcomes.items():
        before = found.get(group[key], ())
        if kind.findings or not before:
            found[group[key]] = tuple(dict.fromkeys((*before, *names)))
    return found


def _assign(
    outcomes_of: Mapping[str, Sequence[str]], split_of: Mapping[str, str], *, val_fraction: float, seed: int
) -> dict[str, str]:
    """Return the split of every labeled group; groups with a split keep it."""
    assigned = dict(split_of)
    members = {
        name: [member for member, names in outcomes_of.items() if name in names]
        for name in dict.fromkeys(name for names in outcomes_of.values() for name in names)
    }

    def validating(name: str) -> int:
        return sum(assigned.get(member) == "val" for member in members[name])

    for name, those in members.items():
        new = sorted(
            (member for member in those if member not in assigned), key=lambda one: hash_fraction(seed, "label", one)
        )
        least = 1 if val_fraction else 0
        wanted = min(max(least, round(val_fraction * len(those))), len(those) - 1)
        for member in new:
            # the last group with an outcome stays in training
            spare = all(validating(other) < len(members[other]) - 1 for other in outcomes_of[member])
            if validating(name) < wanted and spare:
                assigned[member] = "val"
    return {**dict.fromkeys(outcomes_of, "train"), **assigned}


def _check(
    shards: Sequence[Sequence[str]],
    outcomes: Mapping[str, Sequence[str]],
    kind: LabelKind,
    group: Mapping[str, str],
    split_of: Mapping[str, str],
    *,
    validates: bool,
) -> None:
    for key in (key for shard in shards for key in shard):
        if split_of[group[key]] == "val":
            raise ValueError(
                f"group: expected one in training for {key!r}, as before, got {group[key]!r}, which is for validation. "
                "Correct manifest.csv, or begin anew in another output folder."
            )
    places = {(name, split_of[group[key]]) for key, names in outcomes.items() for name in names}
    # an earlier session with validation may have assigned groups to it permanently
    validates = validates or any(split == "val" for _, split in places)
    needed = ("train", "val") if validates else ("train",)
    there = {name for name in kind.outcomes if all((name, split) in places for split in needed)}
    enough = (
        any(f"{name}=0" in there and f"{name}=1" in there for name in kind.names) if kind.findings else len(there) > 1
    )
    if not enough:
        counts = Counter(name for names in outcomes.values() for name in names)
        got = ", ".join(f"{counts[name]} of {name!r}" for name in kind.outcomes)
        where = "in two groups or more of" if validates else "of"
        what = "a finding that is present, and that is absent" if kind.findings else "at least two classes"
        raise ValueError(f"labels: expected labels {where} {what}, got {got}. Label more images.")
    if not shards[-1]:
        raise ValueError(
            f"labels: expected new labels for training since stage {len(shards) - 1}, got none. Label more images."
        )
    for stage, shard in enumerate(shards[:-1], 1):
        if not shard:
            raise ValueError(
                f"labels: expected some of the labels of stage {stage}, got none, as all were withdrawn. "
                "Begin anew in another output folder."
            )
