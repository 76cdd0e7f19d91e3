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

"""Assign labeled groups to train, val and test, with every class in each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from monai_weckd.plan.checks import PlanError, refuse
from monai_weckd.utils.draws import draw_digest

__all__ = ["assign_groups"]

# groups tried before the search gives up; data sets need one for each class and part
_MOST_STEPS = 20_000


def assign_groups(
    counts: Mapping[str, Mapping[int, int]],
    classes: Sequence[str],
    fractions: Mapping[str, float],
    *,
    seed: int,
    fixed: Mapping[str, str] | None = None,
    word: str = "class",
) -> dict[str, str]:
    """Assign each group to a part, so that every part has every class, if any such assignment exists.

    An exact search finds a group of each class for each part that lacks the class. The other groups then go, the
    largest first, to the part that lacks most of its fraction of their classes. A hash decides among equal
    groups, so the result depends on the seed, and not on the order of the groups.

    Args:
        counts: number of labels of each class index in each group.
        classes: class names in the order of their indices.
        fractions: fraction of the labels for each part; a part of fraction 0 gets no more than the groups it needs.
        seed: seed of the plan.
        fixed: part of groups that are assigned already, default None.
        word: what messages call a class, default "class". An item may have several, such as outcomes of findings.

    Returns:
        The part of each group.

    Raises:
        PlanError: When a class has too few groups, when no assignment gives every part every class, or when the search
            takes too long.

    Example::

        >>> counts = {"p": {0: 2}, "q": {1: 1}, "r": {0: 1, 1: 1}}
        >>> assign_groups(counts, ["ill", "well"], {"train": 0.5, "val": 0.5}, seed=0)
        {'p': 'train', 'q': 'train', 'r': 'val'}

    """
    search = _Search(counts, len(classes), fractions, seed=seed, fixed=fixed or {})
    refuse(_scarce_classes(search, classes, word))
    if not search.run():
        raise PlanError(
            [
                f"classes: expected an assignment of groups that gives {_listed(fractions)} every {word}, got none, "
                f"though each {word} alone has groups enough. Label another patient, or pass {_less(fractions)}."
            ]
        )
    search.fill()
    return {group: search.home[group] for group in sorted(search.home)}


class _Search:
    """An assignment in the making: the part of each group, and the classes of each part."""

    def __init__(
        self,
        counts: Mapping[str, Mapping[int, int]],
        num_classes: int,
        fractions: Mapping[str, float],
        *,
        seed: int,
        fixed: Mapping[str, str],
    ) -> None:
        # sorted: a sum of fractions would otherwise depend on the order of the items
        self.counts = {group: dict(sorted(labels.items())) for group, labels in counts.items()}
        self.parts = tuple(fractions)
        self.home: dict[str, str] = {}
        self.groups_in: Counter[tuple[int, str]] = Counter()
        self.labels_in: Counter[tuple[int, str]] = Counter()
        self.free = Counter(label for labels in self.counts.values() for label in labels)
        # the classes with the fewest groups come first
        self.classes = sorted(range(num_classes), key=lambda label: (self.free[label], label))
        totals: Counter[int] = Counter()
        for labels in self.counts.values():
            totals.update(labels)
        self.targets = {(label, part): share * totals[label] for part, share in fractions.items() for label in totals}
        self.room = {part: share * totals.total() for part, share in fractions.items()}
        for group in self.counts.keys() & fixed.keys():
            self.put(group, fixed[group])
        self.order = sorted(self.counts.keys() - self.home.keys(), key=lambda group: draw_digest(seed, "split", group))
        # groups with the same classes are interchangeable in the search: if one fails, so do the others
        self.alike: dict[tuple[int, ...], list[str]] = {}
        for group in self.order:
            self.alike.setdefault(tuple(self.counts[group]), []).append(group)
        self.rank = {group: place for place, group in enumerate(self.order)}

    def put(self, group: str, part: str) -> None:
        """Assign a group to a part."""
        self.home[group] = part
        self._count(group, part, 1)

    def missing(self) -> dict[int, list[str]]:
        """Return the parts that lack a class, by class."""
        return {
            label: parts
            for label in self.classes
            if (parts := [part for part in self.parts if not self.groups_in[label, part]])
        }

    def run(self) -> bool:
        """Give every part every class; return whether that is possible."""
        trail: list[Iterator[str]] = []
        for _ in range(_MOST_STEPS):
            missing = self.missing()
            if not missing:
                return True
            # a class has fewer groups left than parts that lack it, so this branch fails
            if all(self.free[label] >= len(parts) for label, parts in missing.items()):
                label, parts = next(iter(missing.items()))
                trail.append(self._tries(label, parts[0]))
            while trail and next(trail[-1], None) is None:
                trail.pop()
            if not trail:
                return False
        raise PlanError(
            [
                f"classes: expected a split with every class in {_listed(self.parts)} within {_MOST_STEPS} steps of "
                f"search, got none. Give every item a split, or pass {_less(self.parts)}."
            ]
        )

    def fill(self) -> None:
        """Assign the other groups, each to the part that lacks most of the group's classes."""
        rest = [group for group in self.order if group not in self.home]
        # a stable sort, so that the hash decides among groups of one size
        for group in sorted(rest, key=lambda group: -sum(self.counts[group].values())):
            shortfalls = {part: self._shortfall(part, self.counts[group]) for part in self.parts}
            self.put(group, max(self.parts, key=shortfalls.__getitem__))

    def _tries(self, label: int, part: str) -> Iterator[str]:
        """Assign one group of a class after the other to a part, and undo each before the next one."""
        for group in self._candidates(label, part):
            self.put(group, part)
            yield group
            del self.home[group]
            self._count(group, part, -1)

    def _candidates(self, label: int, part: str) -> list[str]:
        """Return one group for each combination of classes, in the order of the hash, those with room first."""
        found = []
        for labels, groups in self.alike.items():
            free = [group for group in groups if group not in self.home] if label in labels else []
            found += [min(free, key=lambda group: self._exceeds(group, part))] if free else []
        return sorted(found, key=lambda group: (self._exceeds(group, part), self.rank[group]))

    def _shortfall(self, part: str, labels: Mapping[int, int]) -> float:
        missing = {label: self.targets[label, part] - self.labels_in[label, part] for label in labels}
        return sum(number * missing[label] for label, number in labels.items())

    def _exceeds(self, group: str, part: str) -> bool:
        return sum(self.counts[group].values()) > self.room[part]

    def _count(self, group: str, part: str, sign: int) -> None:
        for label, number in self.counts[group].items():
            self.free[label] -= sign
            self.groups_in[label, part] += sign
            self.labels_in[label, part] += sign * number


def _scarce_classes(search: _Search, classes: Sequence[str], word: str) -> Iterator[str]:
    """Yield the problem of each class with fewer groups than parts that lack it."""
    for label, parts in sorted(search.missing().items()):
        groups = search.free[label]
        if groups >= len(parts):
            continue
        new = "new groups" if search.home else "groups"
        held_out = [part for part in parts if part != "train"][: len(parts) - groups]
        less = " and ".join(f"{part}_fraction=0" for part in held_out) if groups else f"leave the {word} out"
        yield (
            f"{word} {classes[label]!r}: expected labeled images in {len(parts)} {new} or more, for {_listed(parts)}, "
            f"got {groups}. Label another patient, or {'pass ' if groups else ''}{less}."
        )


def _less(parts: Iterable[str]) -> str:
    """Return the option that asks for one part less."""
    return f"{next(part for part in parts if part != 'train')}_fraction=0"


def _listed(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
