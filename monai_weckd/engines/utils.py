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

"""Helpers for engines: handler order, and checks of parameter groups, target, loss and metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, RemovableEventHandle
from monai.utils import CommonKeys
from torch.optim import Optimizer

from monai_weckd.utils.enums import INDEX

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer

__all__ = ["attach_first", "check_groups", "check_loss", "check_metric"]


def attach_first(engine: Engine, event: Any, handler: Callable) -> RemovableEventHandle:
    """Add an event handler that runs before all handlers that the event already has.

    Args:
        engine: Ignite Engine.
        event: one of its events.
        handler: the function to call.

    """
    handle = engine.add_event_handler(event, handler)
    handlers = engine._event_handlers[event]  # Ignite has no public access to this
    handlers.insert(0, handlers.pop())
    return handle


_SHOWN = 8


def check_groups(optimizer: Optimizer, groups: Sequence[Mapping[str, Any]], *, others: bool = True) -> None:
    """Refuse parameter groups that do not begin with those of a state.

    Args:
        optimizer: the optimizer that is to take the state.
        groups: the groups of the state.
        others: whether the optimizer may have others behind them, default True.

    Raises:
        ValueError: When they differ.

    """
    expected, got = ([len(group["params"]) for group in part] for part in (groups, optimizer.param_groups))
    if got != expected and not (others and got[: len(expected)] == expected):
        raise ValueError(
            f"optimizer: expected parameter groups of {expected} parameters, with which the chain began or was "
            f"interrupted, got {got}. Pass an optimizer with all groups, or add groups and do not change the first."
        )


def check_loss(engine: SupervisedTrainer, items: Sequence[Mapping[str, Any]], *, last_good: str) -> None:
    """Stop a chain when its loss is NaN or infinite.

    Args:
        engine: its trainer, with the loss of the current batch.
        items: all training items, with ``id``; the indices of the batch refer to them.
        last_good: where the last good student is.

    Raises:
        FloatingPointError: When the loss is not finite; it names the images.

    """
    loss, state = float(engine.state.output[CommonKeys.LOSS].detach()), engine.state
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"loss: expected a finite number, got {loss} in stage {state.stage}, epoch {state.stage_epoch}, "
            f"iteration {state.iteration}, of {_batch_names(engine, items)}. "
            f"Lower the learning rate, or leave out what is broken; last good checkpoint: {last_good}."
        )


def check_metric(name: str, value: float) -> None:
    """Stop a chain when its validation metric is NaN or infinite and so cannot compare students.

    Args:
        name: name of the metric.
        value: its value.

    Raises:
        FloatingPointError: When it is not finite, for example the area under the curve of a class without items.

    """
    if not math.isfinite(value):
        raise FloatingPointError(
            f"{name}: expected a finite number on validation, got {value}, so that stages cannot be compared. "
            "Give validation labels of every class, or another key metric."
        )


def _batch_names(engine: SupervisedTrainer, items: Sequence[Mapping[str, Any]]) -> str:
    """Name the images of the current batch with non-finite values, else those with non-finite logits, else all."""
    places, broken = engine.state.batch[INDEX].tolist(), list[int]()
    for key in (CommonKeys.IMAGE, CommonKeys.PRED):
        finite = engine.state.output[key].detach().flatten(1).isfinite().all(dim=1).tolist()
        broken = broken or [place for place, good in zip(places, finite, strict=True) if not good]
    names = [str(items[place]["id"]) for place in broken or places]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
