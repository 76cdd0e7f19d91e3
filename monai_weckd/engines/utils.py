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

from collections.abc import Callable
from typing import Any

from ignite.engine import Engine, RemovableEventHandle

__all__ = ["attach_first"]


def attach_first(engine: Engine, event: Any, handler: Callable) -> RemovableEventHandle:
    """Add an event handler that acts before those that are there already, in whatever order they were listed.

    Args:
        engine: Ignite Engine.
        event: one of its events.
        handler: what to call.

    """
    handle = engine.add_event_handler(event, handler)
    handlers = engine._event_handlers[event]  # Ignite has no public way to this
    handlers.insert(0, handlers.pop())
    return handle
