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

"""Work in a background thread, for the newest state alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

__all__ = ["Background"]

logger = logging.getLogger(__name__)


class Background:
    """Do something in a thread of its own whenever somebody asks, and once more if it is asked for meanwhile.

    A failure is logged: no caller waits for it.

    Args:
        name: name of the thread.
        work: what to do.
        failure: what could not be done if it fails, for the log.

    """

    def __init__(self, name: str, work: Callable[[], object], *, failure: str) -> None:
        self._name, self._work, self._failure = name, work, failure
        self._asked = threading.Event()
        self._busy = threading.Lock()

    def ask(self) -> None:
        """Do it, now or after what is being done; returns at once."""
        self._asked.set()
        if self._busy.acquire(blocking=False):
            threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        try:
            while self._asked.is_set():
                self._asked.clear()
                self._work()
        except Exception:
            logger.exception("%s", self._failure)
        finally:
            self._busy.release()
        if self._asked.is_set():  # somebody asked between the last check and the release
            self.ask()
