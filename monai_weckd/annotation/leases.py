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

"""Which window has which image, so that two people at once get different ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from monai_weckd.annotation.order import Suggestion

__all__ = ["Leases"]

_KEPT_FOR = 300.0  # seconds without a sign of a window; browsers let one in the background speak once a minute


class Leases:
    """Images that windows have been given to label."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._images: dict[str, tuple[Suggestion, ...]] = {}
        self._seen: dict[str, float] = {}

    def seen(self, window: str) -> None:
        """Note that a window is open.

        Args:
            window: its name.

        """
        self._seen[window] = time.monotonic()

    def others(self, window: str | None) -> set[str]:
        """Return the images of other windows that are open; none for a program without a window.

        Args:
            window: the window that asks.

        """
        with self._lock:
            return set() if window is None else self._others(window)

    def held(self, window: str | None) -> tuple[Suggestion, ...]:
        """Return the images that a window was given last, in order.

        Args:
            window: the window, None: it holds nothing.

        """
        return () if window is None else self._images.get(window, ())

    def take(self, window: str | None, found: Sequence[Suggestion], *, count: int) -> list[Suggestion]:
        """Give images to a window in place of those that it had, and return them.

        Those of other windows come where nothing else is left.

        Args:
            window: the window, None: it gets the first ones, and nothing is noted.
            found: images, in order.
            count: how many to give.

        """
        if window is None:
            return list(found[:count])
        with self._lock:
            self.seen(window)
            taken = self._others(window)
            given = [one for one in found if one.id not in taken][:count] or list(found[:count])
            self._images[window] = tuple(given)
            return given

    def _others(self, window: str) -> set[str]:
        old = [name for name, seen in list(self._seen.items()) if time.monotonic() - seen > _KEPT_FOR]
        for name in old:
            self._seen.pop(name, None)
            self._images.pop(name, None)
        return {one.id for name, images in self._images.items() if name != window for one in images}
