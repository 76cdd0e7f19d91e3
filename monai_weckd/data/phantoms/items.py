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

"""List the items of a phantom, and give each group and item its own random generator."""

from __future__ import annotations

import uuid
import zlib
from dataclasses import dataclass

import numpy as np

__all__ = ["PhantomItem", "phantom_items"]

# three independent streams of random numbers: sizes of groups, properties of a group, properties of an item
_SIZES, _GROUP, _ITEM = 0, 1, 2


@dataclass(frozen=True)
class PhantomItem:
    """One image of a phantom, before it is drawn.

    Args:
        kind: kind of the phantom.
        seed: seed of the phantom.
        label: its class.
        group: name of its group.
        number: number of its group, from 1.
        index: its place in the group, from 0.
    """

    kind: str
    seed: int
    label: str
    group: str
    number: int
    index: int

    def of_group(self) -> np.random.Generator:
        """Return a fresh generator, the same for all items of the group."""
        return _generator(self.seed, self.kind, _GROUP, self.number, 0)

    def of_item(self) -> np.random.Generator:
        """Return a fresh generator that no other item has."""
        return _generator(self.seed, self.kind, _ITEM, self.number, self.index)

    def uid(self, role: str) -> str:
        """Return a DICOM UID of the group for a role, such as "study": the same one on every run (root 2.25)."""
        name = f"monai_weckd/phantom/{self.kind}/{self.seed}/{self.group}/{role}"
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, name).int}"


def phantom_items(
    kind: str, count: int, seed: int, *, classes: tuple[str, ...], group: str, sizes: tuple[int, int]
) -> list[PhantomItem]:
    """List the items of a phantom: classes in turn, and within a class one group after the other.

    A longer list begins with the shorter one, so that adding items never changes the others.

    Args:
        kind: kind of the phantom.
        count: number of items.
        seed: seed of the phantom.
        classes: names of the classes.
        group: what a group is called; its number follows.
        sizes: minimum and maximum number of items in a group; the last group of a class may have fewer.

    Example::

        >>> items = phantom_items("otoscopy", 4, 0, classes=("a", "b"), group="ear", sizes=(2, 2))
        >>> [(item.label, item.group, item.index) for item in items]
        [('a', 'ear_0001', 0), ('b', 'ear_0002', 0), ('a', 'ear_0001', 1), ('b', 'ear_0002', 1)]

    """
    places = [_places(kind, -(-count // len(classes)), seed, c, sizes) for c in range(len(classes))]
    items = []
    for i in range(count):
        c = i % len(classes)
        rank, index = places[c][i // len(classes)]
        number = rank * len(classes) + c + 1
        items.append(PhantomItem(kind, seed, classes[c], f"{group}_{number:04d}", number, index))
    return items


def _places(kind: str, count: int, seed: int, label: int, sizes: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the group's rank within its class, and the place within the group, of the first items of a class."""
    rng = _generator(seed, kind, _SIZES, label, 0)
    places: list[tuple[int, int]] = []
    rank = 0
    while len(places) < count:
        places += [(rank, index) for index in range(rng.integers(sizes[0], sizes[1] + 1))]
        rank += 1
    return places[:count]


def _generator(seed: int, kind: str, stream: int, a: int, b: int) -> np.random.Generator:
    """Return the generator of one stream; always five numbers, as SeedSequence takes [1] and [1, 0] for the same."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(kind.encode()), stream, a, b]))
