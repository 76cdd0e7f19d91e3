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

"""Keep test labels out of tuning, and limit its validation labels to the size of a shard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.label_kind import Label, LabelKind
from monai_weckd.plan.oracle import LabelOracle
from monai_weckd.plan.splits import draw_shards
from monai_weckd.utils.draws import draw_digest

__all__ = ["BlindOracle", "limit_validation"]


class BlindOracle(LabelOracle):
    """Hide the test labels: a request for them returns made-up labels (all outcomes in turn) and is not recorded.

    A plan reads the test labels to check that no class is missing. Tuning needs none of them, and with this oracle the
    plan is the same without them. Only a plan that finds the split itself reads all labels for the purpose "split".

    Args:
        items: dictionaries with ``id`` and ``label``.
        kind: the kind of the labels.

    Example::

        >>> kind = LabelKind(("ill", "well"))
        >>> oracle = BlindOracle([{"id": "a", "label": 1}, {"id": "b", "label": 1}], kind=kind)
        >>> oracle.reveal(["a"], purpose="validation"), oracle.reveal(["a", "b"], purpose="test")
        ({'a': 1}, {'a': 0, 'b': 1})

    """

    def __init__(self, items: Sequence[Mapping[str, Any]], *, kind: LabelKind) -> None:
        super().__init__(items, findings=kind.findings)
        count = len(kind.names)
        self._made_up = ((0,) * count, (1,) * count) if kind.findings else tuple(range(count))

    def reveal(self, ids: Iterable[str], *, purpose: str, stage: int | None = None) -> dict[str, Any]:
        """Return the labels of some items by id; for the purpose "test", the labels are made up.

        Args:
            ids: ids of the items.
            purpose: purpose of the request.
            stage: stage number, from 1, default None.

        """
        if purpose == "test":
            return dict(zip(ids, cycle(self._made_up), strict=False))
        return super().reveal(ids, purpose=purpose, stage=stage)


def limit_validation(plan: ChainPlan, oracle: LabelOracle, *, seed: int) -> ChainPlan:
    """Return a plan with at most as many validation labels as a shard has, drawn at random from each class.

    Users with few labels for training also have few for tuning. A hash decides which labels stay. Each class keeps its
    share, and at least one label if there are as many labels as classes. Findings keep an image with and one without
    each, if there are as many labels as that takes.

    Args:
        plan: the plan.
        oracle: source of the labels of its validation items.
        seed: seed of the hash.

    """
    if len(plan.val) <= plan.shard_size:
        return plan
    labels = oracle.reveal(plan.val, purpose="validation")
    if plan.findings:
        return replace(plan, val=_draw_outcomes(labels, plan, seed))
    [part] = draw_shards({key: [key] for key in plan.val}, labels, sizes=[plan.shard_size], seed=seed)
    return replace(plan, val=part)


def _draw_outcomes(labels: Mapping[str, Label], plan: ChainPlan, seed: int) -> tuple[str, ...]:
    """Return the first images of a random order, those first that bring an outcome which the ones before lack."""
    order = sorted(labels, key=lambda key: draw_digest(seed, "shard", key))
    found: set[int] = set()
    bringing = []
    for key in order:
        outcomes = set(plan.kind.outcomes_of(labels[key]))
        if not outcomes <= found:
            bringing.append(key)
            found |= outcomes
    return tuple(sorted(list(dict.fromkeys([*bringing, *order]))[: plan.shard_size]))
