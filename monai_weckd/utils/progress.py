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

"""Show the progress of a long task."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

__all__ = ["Progress", "progress"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

# seconds between two lines of progress
_IN_TERMINAL, _IN_LOG = 0.1, 10.0


class Progress:
    """Show the progress of a task: by a bar in a terminal, by a line in the log every ten seconds elsewhere.

    The bar needs ``tqdm``; without it, lines are logged instead. The log also names the task when it begins. Processes
    other than the first show nothing, and neither does a task without units.

    Args:
        task: what is being done, such as "verifying".
        total: number of units.
        unit: name of several units, default "images".
        done: units that are done already, default 0.

    """

    def __init__(self, task: str, total: int, *, unit: str = "images", done: int = 0) -> None:
        self.task, self.total, self.unit, self.done = task, total, unit, done
        self.shown = total > done and os.environ.get("RANK", "0") == "0"
        self.bar = self._open() if self.shown else None
        self._began = self._last = time.monotonic()
        if self.shown and self.bar is None:
            logger.info("%s: %d %s", task, total - done, unit)

    def move(self, done: int, note: Callable[[], str] | None = None) -> None:
        """Report how many units are done.

        Args:
            done: their number.
            note: returns a text to show beside it; called only if something is shown. Default None.

        """
        self.done = done
        now = time.monotonic()
        if not self.shown or (now - self._last < (_IN_LOG if self.bar is None else _IN_TERMINAL) and done < self.total):
            return
        self._last = now
        text = "" if note is None else note()
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(done - self.bar.n)
        elif done < self.total:
            logger.info("%s: %d of %d %s%s", self.task, done, self.total, self.unit, f", {text}" if text else "")

    def close(self) -> None:
        """Remove the bar, or say in the log how long the task took if that was more than a second."""
        if self.bar is not None:
            self.bar.close()
        elif self.shown and (seconds := time.monotonic() - self._began) > 1:
            logger.info("%s: %d of %d %s in %.1f s", self.task, self.done, self.total, self.unit, seconds)
        self.shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Any:
        """Return a bar, None without a terminal or ``tqdm``."""
        if sys.stderr is None or not sys.stderr.isatty():
            return None
        try:
            from tqdm import tqdm
        except ImportError:  # only the extra "report" brings it
            return None
        return tqdm(
            desc=self.task, total=self.total, initial=self.done, unit=f" {self.unit}", mininterval=0, leave=False
        )


def progress(items: Iterable[T], task: str, *, total: int, unit: str = "images") -> Iterator[T]:
    """Yield items, and show how many of them are done, see :py:class:`Progress`.

    Args:
        items: the items.
        task: what is being done, such as "verifying".
        total: number of items.
        unit: name of several items, default "images".

    """
    with Progress(task, total, unit=unit) as shown:
        for done, item in enumerate(items, start=1):
            yield item
            shown.move(done)
