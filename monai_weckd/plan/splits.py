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

"""Assign groups to splits, draw shards, and divide epochs among stages."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monai_weckd.utils.draws import apportion, draw_digest, hash_fraction

__all__ = ["assign_split", "divide_epochs", "draw_shards", "group_of", "identify", "longest_stage"]

SPLITS = ("train", "val", "test")


def assign_split(group: str, *, seed: int, val_fraction: float, test_fraction: float) -> str:
    """Assign a group to "train", "val" or "test", independently of all other groups.

    Adding a group must not move any other group. The assignment is therefore a function of the group alone, without
    counts, and the proportions of each class hold in expectation and not exactly.

    Args:
        group: name of items that must stay together, such as a patient, an ear or a smear.
        seed: seed of the plan.
        val_fraction: expected fraction of groups in "val".
        test_fraction: expected fraction of groups in "test".

    Example::

        >>> assign_split("patient 1", seed=0, val_fraction=0.15, test_fraction=0.25)
        'train'

    """
    u = hash_fraction(seed, "split", group)
    if u < test_fraction:
        return "test"
    return "val" if u < test_fraction + val_fraction else "train"


def group_of(item: Mapping[str, Any]) -> str:
    """Return the group of an item; an item without ``group`` is a group of its own.

    Args:
        item: dictionary with ``id`` and, if known, ``group``.

    """
    return str(item.get("group") or item["id"])


def identify(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return items with the ``id`` and ``group`` that a plan needs.

    Args:
        items: dictionaries; ``id`` defaults to ``image``, and ``group`` defaults to ``id``.

    """
    named = [{**item, "id": str(item.get("id", item["image"]))} for item in items]
    return [{**item, "group": group_of(item)} for item in named]


def draw_shards(
    units: Mapping[str, Sequence[str]],
    labels: Mapping[str, int] | None = None,
    *,
    num_shards: int,
    size: int,
    seed: int,
) -> list[tuple[str, ...]]:
    """Draw disjoint shards in the order of a hash; if labels are given, in the proportions of the classes.

    Each shard is a stratified draw from the units that earlier shards left over. A unit counts for the class of most of
    its items. Units are taken until a class has its quota: single items meet it exactly, groups may exceed it.

    Args:
        units: ids to draw together, by key: those of a group, or a single id.
        labels: labels by id for a stratified draw, default None: no label is read.
        num_shards: number of shards.
        size: number of ids in a shard.
        seed: seed of the plan.

    Example::

        >>> draw_shards({key: [key] for key in "abcdef"}, num_shards=2, size=2, seed=0)
        [('a', 'b'), ('e', 'f')]

    """
    members, digests = list(units.values()), [draw_digest(seed, "shard", key) for key in units]
    classes = [0 if labels is None else _majority([labels[i] for i in ids]) for ids in members]
    strata: dict[int, deque[Sequence[str]]] = {}
    # sort places, not keys: looking up a hundred thousand strings in random order takes longer than hashing them
    for place in sorted(range(len(members)), key=digests.__getitem__):
        strata.setdefault(classes[place], deque()).append(members[place])
    queues = [strata[stratum] for stratum in sorted(strata)]
    remaining = [sum(map(len, queue)) for queue in queues]
    shards = []
    for _ in range(num_shards):
        shard: list[str] = []
        for i, quota in enumerate(apportion(size, remaining)):
            taken = _take(queues[i], quota)
            remaining[i] -= len(taken)
            shard += taken
        shards.append(tuple(sorted(shard)))
    return shards


def divide_epochs(max_epochs: int, num_stages: int, stage_epochs: Sequence[int] | None = None) -> tuple[int, ...]:
    """Divide the epochs of a run among the stages, evenly or as listed; the last stages get the remainder.

    Args:
        max_epochs: epochs of the whole run.
        num_stages: number of stages.
        stage_epochs: epochs of each stage, default None.

    Raises:
        ValueError: When there are fewer epochs than stages, or ``stage_epochs`` does not add up.

    Example::

        >>> divide_epochs(11, 3)
        (3, 4, 4)

    """
    if stage_epochs is None:
        if max_epochs < num_stages:
            raise ValueError(
                f"max_epochs: expected at least one for each of {num_stages} stages, got {max_epochs}. Raise it."
            )
        share, rest = divmod(max_epochs, num_stages)
        return tuple(share + (stage >= num_stages - rest) for stage in range(num_stages))
    if len(stage_epochs) != num_stages or sum(stage_epochs) != max_epochs or min(stage_epochs) < 1:
        raise ValueError(
            f"stage_epochs: expected {num_stages} positive numbers that add up to max_epochs={max_epochs}, "
            f"got {list(stage_epochs)}. Change the one or the other."
        )
    return tuple(stage_epochs)


def longest_stage(max_epochs: int, num_stages: int, stage_epochs: Sequence[int] | None = None) -> int:
    """Return the epochs of the longest stage, the length of a learning rate schedule; see :py:func:`divide_epochs`.

    Args:
        max_epochs: epochs of the whole run.
        num_stages: number of stages.
        stage_epochs: epochs of each stage, default None.

    """
    return max(divide_epochs(max_epochs, num_stages, stage_epochs))


def _take(queue: deque[Sequence[str]], quota: int) -> list[str]:
    taken: list[str] = []
    while queue and len(taken) < quota:
        taken += queue.popleft()
    return taken


def _majority(labels: Sequence[int]) -> int:
    if len(labels) == 1:
        return labels[0]
    counts = Counter(labels)
    # among equally common classes, the first
    return min(counts, key=lambda label: (-counts[label], label))
