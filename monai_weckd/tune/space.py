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

"""The hyperparameters that can be tuned, and their ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monai_weckd.utils.messages import nearest

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

__all__ = ["SPACE", "TunedParameter", "parse_parameters", "suggest_values"]


@dataclass(frozen=True)
class TunedParameter:
    """The search range of one key of a bundle's configuration.

    Args:
        name: the last part of the key.
        low: smallest value.
        high: largest value.
        log: whether to search on a logarithmic scale, default False.
        integer: whether the values are integers, default False.
        choices: the allowed values, default none: all from ``low`` to ``high``.
        group: the section of the configuration that holds the key, default "": the top level.

    """

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    choices: tuple[float, ...] = ()
    group: str = ""

    @property
    def key(self) -> str:
        """The key in the configuration, such as "chain#pool_ratio"."""
        return f"{self.group}#{self.name}" if self.group else self.name

    def suggest(self, trial: BaseTrial) -> Any:
        """Return the value for a trial.

        Args:
            trial: Optuna's trial.

        """
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.integer:
            return trial.suggest_int(self.name, int(self.low), int(self.high))
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Return whether a trial may try a value.

        Args:
            value: the value.

        Example::

            >>> SPACE["pool_ratio"].holds(4), SPACE["pool_ratio"].holds(0.5), SPACE["averaging"].holds(0.5)
            (True, False, False)

        """
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if self.choices:
            return value in self.choices
        return self.low <= value <= self.high and not (self.integer and value != int(value))


# WeCKD (arXiv 2510.14668) tunes the first three, also with Optuna; the ranges are ours, since it published none
SPACE: Mapping[str, TunedParameter] = {
    parameter.name: parameter
    for parameter in (
        TunedParameter("learning_rate", 1e-5, 1e-2, log=True),
        TunedParameter("distillation_weight", 0.1, 0.9),
        TunedParameter("temperature", 1.0, 10.0, group="loss_function"),
        TunedParameter("attention_weight", 0.01, 10.0, log=True, group="loss_function"),
        TunedParameter("pool_ratio", 0, 4, integer=True, group="chain"),
        TunedParameter("averaging", choices=(0.0, 0.9, 0.95, 0.99), group="chain"),
        TunedParameter("threshold", 0.0, 0.95, group="loss_function"),
    )
}
DEFAULTS = ("learning_rate", "distillation_weight", "temperature")


def parse_parameters(names: str | Iterable[str]) -> tuple[TunedParameter, ...]:
    """Return the parameters with the given names.

    Args:
        names: keys of ``SPACE``, as a list or separated by commas.

    Raises:
        ValueError: When there is no name, or one is unknown or given twice.

    Example::

        >>> [(parameter.name, parameter.high) for parameter in parse_parameters("learning_rate,pool_ratio")]
        [('learning_rate', 0.01), ('pool_ratio', 4)]

    """
    wanted = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    for name in wanted:
        if name not in SPACE:
            raise ValueError(f"parameters: expected some of {tuple(SPACE)}, got {name!r}. {nearest(name, list(SPACE))}")
        if wanted.count(name) > 1:
            raise ValueError(f"parameters: expected every name once, got {name!r} twice. Remove one.")
    if not wanted:
        raise ValueError(f"parameters: expected some of {tuple(SPACE)}, got none. Name one at least.")
    return tuple(SPACE[name] for name in wanted)


def suggest_values(trial: BaseTrial, parameters: Iterable[TunedParameter]) -> dict[str, Any]:
    """Return the values for a trial, by parameter name.

    Args:
        trial: Optuna's trial.
        parameters: the tuned parameters.

    """
    return {parameter.name: parameter.suggest(trial) for parameter in parameters}
