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

"""Draw shards, and divide epochs among stages."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from monai_weckd.utils.draws import apportion, draw_digest
from monai_weckd.utils.messages import check_item

__all__ = ["divide_epochs", "draw_shards", "group_of", "identify", "longest_stage"]

SPLITS = ("train", "val", "test")

# the units of one class that are in no shard yet, in the order of a hash
_Stratum: TypeAlias = deque[Sequence[str]]


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

    Raises:
        TypeError: When an item is not a dictionary.
        ValueError: When an item has neither ``id`` nor ``image``.

    """
    named = []
    for number, item in enumerate(items):
        check_item("items", number, item)
        if "id" not in item and "image" not in item:
            raise ValueError(
                f"items: expected an 'image' or an 'id' in every item, got the keys {list(item)} in item {number}. "
                "Add one."
            )
        named.append({**item, "id": str(item["id"] if "id" in item else item["image"])})
    return [{**item, "group": group_of(item)} for item in named]


def draw_shards(
    units: Mapping[str, Sequence[str]], labels: Mapping[str, int] | None = None, *, sizes: Sequence[int], seed: int
) -> list[tuple[str, ...]]:
    """Draw disjoint shards in the order of a hash; if labels are given, in the proportions of the classes.

    Each shard is a stratified draw from the units that earlier shards left over. A unit counts for the class of most of
    its items. Single items meet their quotas exactly. Groups come as close to the size of the shard as whole groups
    can, and they exceed it only if each group alone does; among choices of the same size, the quotas of the classes
    decide. A stratified shard may be smaller if it would otherwise lose a class.

    Args:
        units: ids to draw together, by key: those of a group, or a single id.
        labels: labels by id for a stratified draw, default None: no label is read.
        sizes: number of ids in each shard. In ascending order, each shard gets every class that has enough items.
        seed: seed of the plan.

    Example::

        >>> draw_shards({key: [key] for key in "abcdef"}, sizes=[2, 2], seed=0)
        [('a', 'b'), ('e', 'f')]
        >>> draw_shards({"p": ["a", "b", "c"], "q": ["d", "e"], "r": ["f", "g"]}, sizes=[4], seed=0)
        [('d', 'e', 'f', 'g')]

    """
    members, digests = list(units.values()), [draw_digest(seed, "shard", key) for key in units]
    classes = [0 if labels is None else _majority([labels[i] for i in ids]) for ids in members]
    strata: dict[int, _Stratum] = {}
    # sort places, not keys: looking up a hundred thousand strings in random order takes longer than hashing them
    for place in sorted(range(len(members)), key=digests.__getitem__):
        strata.setdefault(classes[place], deque()).append(members[place])
    queues = [strata[stratum] for stratum in sorted(strata)]
    draw = _draw_items if all(len(ids) == 1 for ids in members) else _draw_groups
    return [tuple(sorted(draw(queues, size))) for size in sizes]


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
            f"got {list(stage_epochs)}. Change one of them."
        )
    return tuple(stage_epochs)


def longest_stage(max_epochs: int, num_stages: int, stage_epochs: Sequence[int] | None = None) -> int:
    """Return the epochs of the longest stage, as the length of a learning rate schedule; see :py:func:`divide_epochs`.

    Args:
        max_epochs: epochs of the whole run.
        num_stages: number of stages.
        stage_epochs: epochs of each stage, default None.

    """
    return max(divide_epochs(max_epochs, num_stages, stage_epochs))


def _draw_items(queues: Sequence[_Stratum], size: int) -> list[str]:
    quotas = apportion(size, [len(queue) for queue in queues])
    return [queue.popleft()[0] for queue, quota in zip(queues, quotas, strict=True) for _ in range(quota)]


def _draw_groups(queues: Sequence[_Stratum], size: int) -> list[str]:
    """Take the groups of a shard from their strata."""
    stratum_of = {id(unit): place for place, queue in enumerate(queues) for unit in queue}
    wanted = _by_quota(queues, size)
    chosen = {id(unit) for unit in wanted}
    others = [unit for queue in queues for unit in queue if id(unit) not in chosen]
    found = _pack([*wanted, *others], size)
    if len({stratum_of[id(unit)] for unit in wanted}) > len({stratum_of[id(unit)] for unit in found}):
        # keeping a class matters more than a few labels
        more = _pack(others, size - sum(map(len, wanted)))
        found = [*wanted, *more] if sum(map(len, (*wanted, *more))) <= size else wanted
    taken = {id(unit) for unit in found}
    for queue in queues:
        left = [unit for unit in queue if id(unit) not in taken]
        queue.clear()
        queue.extend(left)
    return [key for unit in found for key in unit]


def _by_quota(queues: Sequence[_Stratum], size: int) -> list[Sequence[str]]:
    """Return groups that meet the quota of each class as closely as whole groups can, the rarest class first."""
    counts = [sum(map(len, queue)) for queue in queues]
    quotas = apportion(size, counts)
    wanted = sorted((place for place in range(len(queues)) if quotas[place]), key=counts.__getitem__)
    # room for the smallest group of each class that is still to come
    reserved = sum(min(map(len, queues[place])) for place in wanted)
    found: list[Sequence[str]] = []
    spare = 0
    for place in wanted:
        reserved -= min(map(len, queues[place]))
        # the unused part of a class's quota goes to the next class
        spare += quotas[place]
        left = size - sum(map(len, found))
        units = _pack(queues[place], max(0, min(spare, left - reserved)))
        if sum(map(len, units)) <= left:
            found += units
            spare -= sum(map(len, units))
    return found


def _pack(units: Iterable[Sequence[str]], size: int) -> list[Sequence[str]]:
    """Return units with as many items together as possible, at most ``size``, the first ones where there is a choice.

    If every unit is larger, the smallest one is returned alone.
    """
    smallest: Sequence[str] = ()
    # bit n of ``sums`` says whether some of the units seen so far have n items together
    sums, whole, steps = 1, (1 << (size + 1)) - 1, list[tuple[Sequence[str], int]]()
    for unit in units:
        smallest = unit if not smallest or len(unit) < len(smallest) else smallest
        more = (sums | sums << len(unit)) & whole
        if more != sums:
            steps.append((unit, sums))
            sums = more
        if size and sums >> size:
            break
    total, found = sums.bit_length() - 1, list[Sequence[str]]()
    for unit, before in reversed(steps):
        if not before >> total & 1:
            found.append(unit)
            total -= len(unit)
    return found or [smallest][: len(smallest)]


def _majority(labels: Sequence[int]) -> int:
    if len(labels) == 1:
        return labels[0]
    counts = Counter(labels)
    # among equally common classes, the first
    return min(counts, key=lambda label: (-counts[label], label))
