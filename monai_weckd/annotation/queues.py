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

"""Images that people have chosen to see next, ahead of the chain's order."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable

__all__ = ["MOST_QUEUED", "Queues"]

MOST_QUEUED = 1000  # images that a person can have in the queue: more than a day's work


class Queues:
    """A queue of images for each person; it lasts as long as the server runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str | None, tuple[str, ...]] = {}

    def of(self, who: str | None) -> tuple[str, ...]:
        """Return the images in a person's queue, the next one first.

        Args:
            who: the person.

        """
        return self._queues.get(who, ())

    def put(self, who: str | None, images: Iterable[str]) -> None:
        """Put images before all others of a person's queue, in their order.

        Args:
            who: the person.
            images: ids of the images.

        Raises:
            ValueError: When the queue would be too long.

        """
        with self._lock:
            queue = tuple(dict.fromkeys([*images, *self.of(who)]))
            if len(queue) > MOST_QUEUED:
                raise ValueError(
                    f"ids: expected at most {MOST_QUEUED:,} images in the queue, got {len(queue):,}. "
                    "Choose fewer, or empty the queue first."
                )
            self._queues[who] = queue

    def drop(self, who: str | None, images: Collection[str]) -> None:
        """Take images out of a person's queue, if they are in it.

        Args:
            who: the person.
            images: ids of the images.

        """
        with self._lock:
            if not set(images).isdisjoint(self.of(who)):
                self._queues[who] = tuple(key for key in self.of(who) if key not in images)
