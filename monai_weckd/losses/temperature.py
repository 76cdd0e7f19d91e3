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

"""Temperatures for distillation: validation and schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from monai_weckd.utils.messages import nearest

__all__ = ["TemperatureSchedule", "check_temperature"]

SHAPES = ("constant", "linear", "cosine", "exponential")


def check_temperature(temperature: float, *, name: str = "temperature") -> None:
    """Refuse a temperature that cannot divide logits.

    Args:
        temperature: the value to check.
        name: the argument that the error names.

    Raises:
        ValueError: When ``temperature`` is not a positive finite number.

    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"{name}: expected a positive finite number, got {temperature}. The usual range is 1 to 10.")


@dataclass(frozen=True)
class TemperatureSchedule:
    """Anneal the distillation temperature over the epochs of a stage.

    Annealing over the epochs is a known mechanism of WeCKD (arXiv 2510.14668). Its shape and end points are not public,
    so the cosine from 4 to 1 is our inference. With ``u`` the progress through the stage::

        constant     T(u) = start
        linear       T(u) = end + (start - end) * (1 - u)
        cosine       T(u) = end + (start - end) * (1 + cos(pi * u)) / 2
        exponential  T(u) = start * (end / start) ** u

    Args:
        start: temperature in the first epoch. Defaults to 4.0.
        end: temperature in the last epoch, not used by ``"constant"``. Defaults to 1.0.
        shape: ``"constant"``, ``"linear"``, ``"cosine"`` or ``"exponential"``. Defaults to ``"cosine"``.

    Raises:
        ValueError: When ``start`` or ``end`` is not a positive finite number.
        ValueError: When ``shape`` is unknown.

    Example::

        >>> schedule = TemperatureSchedule()
        >>> [schedule(epoch / 4) for epoch in (0, 2, 4)]
        [4.0, 2.5, 1.0]
        >>> TemperatureSchedule(8.0, 2.0, shape="exponential")(0.5)
        4.0

    """

    start: float = 4.0
    end: float = 1.0
    shape: str = "cosine"

    def __post_init__(self) -> None:
        check_temperature(self.start, name="start")
        check_temperature(self.end, name="end")
        if self.shape not in SHAPES:
            raise ValueError(
                f"shape: expected one of {', '.join(SHAPES)}, got {self.shape!r}. {nearest(self.shape, SHAPES)}"
            )

    def __call__(self, progress: float) -> float:
        """Return the temperature at a point of the stage.

        Args:
            progress: from 0.0 in the first epoch of the stage to 1.0 in its last.

        Raises:
            ValueError: When ``progress`` is outside [0, 1].

        """
        if not 0 <= progress <= 1:
            raise ValueError(
                f"progress: expected a number from 0 to 1, got {progress}. "
                "Pass (epoch - 1) / (epochs - 1) of the stage."
            )
        if self.shape == "constant":
            return self.start
        if self.shape == "exponential":
            return self.start * (self.end / self.start) ** progress
        remaining = 1 - progress if self.shape == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.end + (self.start - self.end) * remaining
