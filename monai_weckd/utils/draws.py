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

"""Reproducible random draws from seeds and keys, independent of order and batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["apportion", "derive", "draw_digest", "hash_fraction", "uniforms"]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def derive(*parts: Any) -> np.ndarray:
    """Return a 32-bit seed for each combination of numbers, the same on every machine.

    A chain of SplitMix64 steps (Steele, Lea and Flood, OOPSLA 2014): all seeds of a batch come from a few vector
    operations, where a generator for each item would cost more than the augmentation itself.

    Args:
        parts: non-negative integers, or arrays of them, which are broadcast against each other.

    Returns:
        Seeds from 0 to 2^32 - 1, int64, in the broadcast shape, which has one dimension at least.

    Example::

        >>> derive(0, 1, [7, 8]).tolist() == [derive(0, 1, 7).item(), derive(0, 1, 8).item()]
        True

    """
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        state = _mix(state + _GAMMA + np.asarray(part).astype(np.uint64))
    return (state >> np.uint64(32)).astype(np.int64)


def uniforms(seeds: Any, count: int) -> np.ndarray:
    """Return ``count`` numbers from [0, 1) for each seed, the same whatever else is in the batch.

    Args:
        seeds: non-negative integers, (B,).
        count: how many numbers; the first ones do not depend on it.

    Returns:
        Numbers of 53 random bits, (B, ``count``), float64.

    Example::

        >>> bool((uniforms([3, 4], 5)[1, :2] == uniforms([4], 2)[0]).all())
        True

    """
    state = _mix(np.asarray(seeds).astype(np.uint64) + _GAMMA)[:, None]
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
    return (_mix(state + steps) >> np.uint64(11)) * 2.0**-53


def _mix(state: np.ndarray) -> np.ndarray:
    """Return the SplitMix64 finalizer of each number of an array; unsigned arithmetic wraps around on purpose."""
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))


def hash_fraction(seed: int, purpose: str, key: str) -> float:
    """Map a key to a uniform number in [0, 1) that depends on nothing but the arguments.

    Args:
        seed: seed of the plan.
        purpose: keeps the draws of different purposes independent.
        key: what is drawn for, such as a group.

    Example::

        >>> round(hash_fraction(0, "split", "patient 1"), 6)
        0.719824

    """
    # 53 bits: all that a double holds, so that the largest value stays below 1
    return (int.from_bytes(draw_digest(seed, purpose, key)[:8], "big") >> 11) * 2.0**-53


def apportion(total: int, counts: Sequence[int]) -> list[int]:
    """Divide a number of places among classes in proportion to their counts, by largest remainder (Hamilton's method).

    A class that has items gets one place at least, if there are as many places as such classes; the class with the most
    places gives it.

    Args:
        total: number of places; if there are fewer items, as many as items are given.
        counts: number of items of each class.

    Example::

        >>> apportion(10, [50, 30, 20]), apportion(5, [97, 2, 1])
        ([5, 3, 2], [3, 1, 1])

    """
    whole = sum(counts)
    total = min(total, whole)
    if total == 0:
        return [0] * len(counts)
    # integers throughout: a remainder in floating point would depend on how it was computed
    quotas = [total * count // whole for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda i: -(total * counts[i] % whole))
    for i in by_remainder[: total - sum(quotas)]:
        quotas[i] += 1
    if total >= sum(count > 0 for count in counts):
        for i, count in enumerate(counts):
            if count and not quotas[i]:
                quotas[quotas.index(max(quotas))] -= 1
                quotas[i] = 1
    return quotas


def draw_digest(*parts: Any) -> bytes:
    """Return the SHA-256 digest of the text of several parts, whose order is a random order of keys.

    Args:
        parts: such as a seed, a purpose and a key.

    """
    # a file name may hold bytes that are not UTF-8, which Python keeps as lone surrogates
    return hashlib.sha256("\0".join(map(str, parts)).encode(errors="surrogateescape")).digest()
