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

"""The options of a chain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from monai_weckd.utils.options import check_choices, check_types, option, option_names

__all__ = ["ChainOptions"]


@dataclass(frozen=True)
class ChainOptions:
    """Options of the stages of a chain. Each field is an option of that name.

    ``teacher`` selects the teacher: the last accepted student ("last"), or the mean logits of all accepted students
    ("ensemble"). From the first stage on it can also be the student itself ("student", as in FixMatch, arXiv
    2001.07685) or the moving average of its weights ("average", as in Mean Teacher, arXiv 1703.01780). ``calibrate``
    divides the logits by a temperature (Guo et al., arXiv 1706.04599).

    Raises:
        ValueError: When an option is out of its range, or two options exclude each other.

    """

    stage_epochs: tuple[int, ...] | None = option(None, "epochs of each stage; null shares them evenly")
    chain_epochs: int | None = option(
        None, "epochs of the whole chain where it takes several runs, such as rounds of federated learning"
    )
    init: str = option(
        "teacher",
        "weights that the next student starts from: the last accepted student's, or those before the first stage",
        choices=("teacher", "initial"),
    )
    accept: str = option(
        "improves",
        "whether to reject a stage whose key metric on validation is worse than its teacher's, or accept every stage",
        choices=("improves", "always"),
    )
    tolerance: float = option(
        0.0,
        "how much worse than its teacher a stage may be without being rejected, in units of the key metric; "
        "with n validation items 1 / n is about what one of them is worth",
    )
    pool_ratio: int = option(
        0, "pool items for each labeled item in a batch; on them, the student learns from the teacher alone"
    )
    views: int = option(0, "number of augmented views of an item in a stage, used in turn; 0 makes a new one each time")
    teacher: str = option("last", "the network that teaches", choices=("last", "ensemble", "student", "average"))
    teacher_cache: bool = option(False, "keep the teacher's outputs, so that it runs once for each view")
    averaging: float = option(
        0.0, "decay of the moving average of a student's weights, which is validated, kept and passed on; 0 for none"
    )
    alignment: bool = option(False, "align the teacher's predictions on pool images with the classes of the labels")
    calibrate: bool = option(False, "calibrate an accepted student on validation before it teaches")
    head_layer: str | None = option(None, "module path of the classification head; null is the last linear layer")

    @classmethod
    def taken_from(cls, arguments: dict[str, Any], chain: ChainOptions | None) -> ChainOptions:
        """Return the options that a caller gave, whole or one by one, and take them out of the arguments.

        Args:
            arguments: keyword arguments; those with the name of an option are removed.
            chain: options given whole, None if they were not.

        Raises:
            TypeError: When options are given both ways.

        Example::

            >>> arguments = {"accept": "always", "decollate": False}
            >>> ChainOptions.taken_from(arguments, None).accept, arguments
            ('always', {'decollate': False})

        """
        given = {name: arguments.pop(name) for name in option_names(cls) if name in arguments}
        if chain is None:
            return cls(**given)
        if given:
            raise TypeError(f"chain: expected None beside {', '.join(given)}, got {chain}. Pass them within it.")
        return chain

    def __post_init__(self) -> None:
        check_types(self)
        if self.stage_epochs is not None:
            object.__setattr__(self, "stage_epochs", tuple(self.stage_epochs))
        check_choices(self)
        self._check_numbers()
        self._check_runs()
        self._check_cache()

    def _check_numbers(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(
                f"tolerance: expected 0 or more, got {self.tolerance}. Pass 0 to reject all that is worse."
            )
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging: expected a decay from 0 to below 1, got {self.averaging}. 0 switches it off.")
        if self.teacher == "average" and self.averaging == 0:
            raise ValueError("averaging: expected a decay above 0 for teacher='average', got 0. Pass 0.99.")
        if self.pool_ratio < 0:
            raise ValueError(f"pool_ratio: expected 0 or more, got {self.pool_ratio}. Pass 0 to leave the pool out.")
        if self.views < 0:
            raise ValueError(f"views: expected 0 or more, got {self.views}. Pass 0 for a new view each time.")

    def _check_runs(self) -> None:
        if self.chain_epochs is not None and self.accept != "always":
            raise ValueError(
                f"accept: expected 'always' with chain_epochs, got {self.accept!r}. "
                "A rejected stage would discard weights that came in between two runs."
            )
        if self.chain_epochs is not None and self.calibrate:
            raise ValueError(
                "calibrate: expected False with chain_epochs, got True. "
                "Heads that each divide by a temperature of their own have no mean; calibrate the final model."
            )

    def _check_cache(self) -> None:
        if self.teacher_cache and self.views == 0:
            raise ValueError(
                "teacher_cache: expected False with views=0, whose views never return, got True. "
                "Pass the number of views of each item, such as views=8."
            )
        if self.teacher_cache and self.teaches_itself:
            raise ValueError(f"teacher_cache: expected False with teacher={self.teacher!r}, which changes, got True.")

    @property
    def teaches_itself(self) -> bool:
        """Whether a student is its own teacher."""
        return self.teacher in ("student", "average")

    def check_attention(self, weight: float) -> None:
        """Refuse an attention loss if the teacher has no features.

        Args:
            weight: weight of the attention loss.

        Raises:
            ValueError: When the weight is above 0 and the teacher is an ensemble.

        """
        if self.teacher == "ensemble" and weight > 0:
            raise ValueError(
                f"attention_weight: expected 0 with teacher='ensemble', got {weight}. "
                "An ensemble has no features; pass teacher='last'."
            )
