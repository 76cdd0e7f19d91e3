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

"""Work in the background, one run at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

__all__ = ["Background"]

logger = logging.getLogger(__name__)


class Background:
    """Do a piece of work in a thread of its own; a call meanwhile has it done once more afterwards.

    A failure is logged, since no caller waits for it.

    Args:
        work: what to do.
        name: name of the thread.
        failed: what the log says of a failure.

    """

    def __init__(self, work: Callable[[], None], *, name: str, failed: str) -> None:
        self._work, self._name, self._failed = work, name, failed
        self._wanted = threading.Event()
        self._running = threading.Lock()

    def start(self) -> None:
        """Start the work, or have it done once more if it is running."""
        self._wanted.set()
        if self._running.acquire(blocking=False):
            threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        try:
            while self._wanted.is_set():
                self._wanted.clear()
                self._work()
        except Exception:  # no caller waits for this thread
            logger.exception("%s", self._failed)
        finally:
            self._running.release()
        if self._wanted.is_set():  # a call came between the last check and the release
            self.start()
