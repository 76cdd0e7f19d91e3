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

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["derive", "uniforms"]

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
