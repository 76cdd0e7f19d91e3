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

"""Find the schedulers that the handlers of a training move, so that they begin anew where the optimizer does."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from ignite.engine import Engine
from ignite.handlers.param_scheduler import ParamGroupScheduler, ParamScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["find_schedulers"]

logger = logging.getLogger(__name__)

# from an object's method to the object, to another in it, to its scheduler
_DEPTH = 3
# no list or dictionary of settings is longer
_LONGEST = 64


def find_schedulers(engines: Iterable[Engine], optimizer: Optimizer, *, known: Iterable[Any] = ()) -> list[Any]:
    """Return the schedulers of an optimizer that handlers move: themselves, or in a function or an object.

    If the optimizer has a scheduler to which no handler leads, a warning says so.

    Args:
        engines: trainer and evaluator, in whose handlers to look.
        optimizer: the optimizer; schedulers of others are left alone.
        known: schedulers that are known already, and not returned.

    """
    known = list(known)
    seen = {id(part) for part in known}
    found = []
    for handler in (handler for engine in engines for handler in _added(engine)):
        for scheduler in _schedulers(handler, optimizer, _DEPTH):
            if id(scheduler) not in seen:
                seen.add(id(scheduler))
                found.append(scheduler)
    # by this attribute PyTorch itself remembers that an optimizer has a scheduler
    if hasattr(optimizer.step, "_wrapped_by_lr_sched") and not any(_moves(part, optimizer) for part in known + found):
        logger.warning(
            "fresh: expected the scheduler of the optimizer in a handler, got none. If one moves the learning rate, "
            "pass fresh=[scheduler], so that it begins anew in each stage, as the optimizer does."
        )
    return found


def _moves(part: Any, optimizer: Optimizer) -> bool:
    if not isinstance(part, LRScheduler | ParamScheduler | ParamGroupScheduler):
        return False
    own = part.optimizer
    return optimizer in own if isinstance(own, list) else own is optimizer


def _added(engine: Engine) -> Iterator[Any]:
    """Yield the handlers of an engine, and the arguments with which they were added."""
    for added in list(engine._event_handlers.values()):  # Ignite has no public access to this
        for handler, args, kwargs in added:
            # Ignite wraps a handler of a filtered event
            parent = getattr(handler, "_parent", None)
            yield handler if parent is None else parent()
            yield from (*args, *kwargs.values())


def _schedulers(value: Any, optimizer: Optimizer, depth: int) -> Iterator[Any]:
    """Yield a value if it is a scheduler, else those among what it holds or, as a function, uses."""
    if _moves(value, optimizer):
        yield value
    elif depth:
        for part in _inside(value):
            yield from _schedulers(part, optimizer, depth - 1)


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, MethodType):
        yield value.__self__
    elif isinstance(value, FunctionType):
        yield from map(_content, value.__closure__ or ())
        yield from (value.__globals__.get(name) for name in value.__code__.co_names)
    elif isinstance(value, Mapping):
        yield from list(value.values())[:_LONGEST]
    elif isinstance(value, list | tuple):
        yield from value[:_LONGEST]
    elif not isinstance(value, Engine | ModuleType | type):
        yield from list(getattr(value, "__dict__", {}).values())


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None
