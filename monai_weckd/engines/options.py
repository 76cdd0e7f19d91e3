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

import math
from dataclasses import dataclass

from monai_weckd.utils.messages import nearest

__all__ = ["ChainOptions"]

_CHOICES = {
    "init": ("teacher", "initial"),
    "accept": ("improves", "always"),
    "teacher": ("last", "ensemble", "student", "average"),
}


@dataclass(frozen=True)
class ChainOptions:
    """How a chain walks from stage to stage.

    Args:
        stage_epochs: epochs of each stage, default None: ``max_epochs`` shared evenly.
        chain_epochs: epochs of the whole chain where it takes several runs of one trainer, such as the rounds of
            federated learning, each to a higher ``max_epochs``; default None: ``max_epochs``, in one run. A run goes on
            with the weights that the network has then.
        init: weights that the next student starts from: "teacher" (the last accepted student's) or "initial" (those
            that the network had before the first stage).
        accept: "improves" rejects a stage whose key metric on validation is worse than its teacher's, "always"
            takes every stage.
        tolerance: how much worse it may be on validation, in units of the key metric, and not be rejected; default 0.0.
            With n validation items 1 / n is about what a single one of them is worth.
        pool_ratio: pool items for each labeled item in a batch; the teacher alone guides on them. Default 0.
        views: how many views of an item there are in a stage, default 0: a new one each time.
        teacher: who guides: "last" (the last accepted student), "ensemble" (the mean logits of all accepted
            students), or from the first stage on "student" (the student itself, as in FixMatch, arXiv 2001.07685) or
            "average" (the moving average of its weights, as in Mean Teacher, arXiv 1703.01780).
        averaging: decay of the moving average of a student's weights, which then are what is validated, kept and handed
            on; default 0.0: no averaging.
        alignment: whether the teacher's predictions on pool images are aligned with the classes of the labels, see
            :py:class:`~monai_weckd.engines.DistributionAlignment`.
        calibrate: whether an accepted student's logits are divided by the temperature that suits validation best
            (Guo et al., arXiv 1706.04599), before it teaches.
        head_layer: module path of the classification head, whose input is what shards are chosen by; default None:
            the last linear layer.

    Raises:
        ValueError: When ``init``, ``accept`` or ``teacher`` is unknown, or a number is out of its range.
        ValueError: When ``teacher`` is "average" without ``averaging``.
        ValueError: When there are ``chain_epochs`` and a stage may be rejected or is calibrated.

    """

    stage_epochs: tuple[int, ...] | None = None
    chain_epochs: int | None = None
    init: str = "teacher"
    accept: str = "improves"
    tolerance: float = 0.0
    pool_ratio: int = 0
    views: int = 0
    teacher: str = "last"
    averaging: float = 0.0
    alignment: bool = False
    calibrate: bool = False
    head_layer: str | None = None

    def __post_init__(self) -> None:
        for name, valid in _CHOICES.items():
            value = getattr(self, name)
            if value not in valid:
                raise ValueError(f"{name}: expected one of {valid}, got {value!r}. {nearest(value, valid)}")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(
                f"tolerance: expected 0 or more, got {self.tolerance}. Pass 0 to reject all that is worse."
            )
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging: expected a decay from 0 to below 1, got {self.averaging}. 0 switches it off.")
        if self.teacher == "average" and self.averaging == 0:
            raise ValueError("averaging: expected a decay above 0 for teacher='average', got 0. Pass 0.99.")
        if self.chain_epochs is not None and self.accept != "always":
            raise ValueError(
                f"accept: expected 'always' with chain_epochs, got {self.accept!r}. "
                "A rejected stage would throw away weights that came in between two runs."
            )
        if self.chain_epochs is not None and self.calibrate:
            raise ValueError(
                "calibrate: expected False with chain_epochs, got True. "
                "Heads that each divide by a temperature of their own have no mean; calibrate the final model."
            )
        if self.pool_ratio < 0:
            raise ValueError(f"pool_ratio: expected 0 or more, got {self.pool_ratio}. Pass 0 to leave the pool out.")
        if self.views < 0:
            raise ValueError(f"views: expected 0 or more, got {self.views}. Pass 0 for a new view each time.")

    def check_teacher(self, *, teacher_cache: bool, attention_weight: float) -> None:
        """Make sure that the teacher can do what is asked of it.

        Args:
            teacher_cache: whether its outputs are kept.
            attention_weight: weight of the attention loss.

        Raises:
            ValueError: When its outputs are kept and every view is new, or it changes.
            ValueError: When it is an ensemble, which has no features, and there is an attention loss.

        """
        if teacher_cache and self.views == 0:
            raise ValueError(
                "teacher_cache: expected False with views=0, whose views never return, got True. "
                "Pass the number of views of each item, such as views=8."
            )
        if teacher_cache and self.teaches_itself:
            raise ValueError(f"teacher_cache: expected False with teacher={self.teacher!r}, which changes, got True.")
        if self.teacher == "ensemble" and attention_weight > 0:
            raise ValueError(
                f"attention_weight: expected 0 with teacher='ensemble', got {attention_weight}. "
                "An ensemble has no features; pass teacher='last'."
            )

    @property
    def teaches_itself(self) -> bool:
        """Whether a student is its own teacher."""
        return self.teacher in ("student", "average")
