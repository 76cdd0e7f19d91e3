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

"""Do work once for concurrent requests, and limit how much is done at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import BoundedSemaphore, Lock
from typing import Generic, TypeVar

__all__ = ["Flights"]

T = TypeVar("T")


class Flights(Generic[T]):
    """Results by key: a thread waits for a result that another thread is making, and the last results are kept.

    Args:
        kept: how many results are kept for later requests.
        few: semaphore held while a result is made, to limit how many are made at a time.

    """

    def __init__(self, *, kept: int, few: BoundedSemaphore) -> None:
        self._kept, self._few = kept, few
        self._lock = Lock()
        self._flights: OrderedDict[Hashable, Future[T]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result of a key.

        Args:
            key: the key.
            make: makes the result if there is none; its error is raised in all waiting threads and is not kept.

        """
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                self._flights.move_to_end(key)
            else:
                mine = self._flights[key] = Future()
        if flight is not None:
            return flight.result()
        try:
            with self._few:
                mine.set_result(make())
        except BaseException as error:
            with self._lock:
                del self._flights[key]
            mine.set_exception(error)
            raise
        with self._lock:
            done = [other for other, flight in self._flights.items() if flight.done()]
            for other in done[: len(done) - self._kept] if len(done) > self._kept else ():
                del self._flights[other]
        return mine.result()
