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

"""The processors, threads and memory that this process may use, and locks that end with it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

__all__ = ["available_memory", "available_processors", "can_lock", "limit_threads", "try_lock"]

# of a container, in both versions of the kernel's interface
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNKNOWN_MEMORY = 2**32  # where the system cannot be asked


def available_processors(quota: str | os.PathLike[str] = "/sys/fs/cgroup/cpu.max") -> int:
    """Return how many processors this process may use, by its affinity and a container's quota.

    Args:
        quota: file with the container's quota, ``<microseconds or max> <period>``; it need not exist.

    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux knows it
        count = os.cpu_count() or 1
    path = Path(quota)
    if path.is_file():
        allowed, period = path.read_text(encoding="ascii").split()
        if allowed != "max":
            count = min(count, max(1, math.floor(int(allowed) / int(period))))
    return count


def available_memory(limits: Sequence[str | os.PathLike[str]] = _MEMORY_LIMITS) -> int:
    """Return how many bytes this process may take: the machine's, a container's, or what its address space leaves.

    Args:
        limits: files with a container's limit, ``<bytes or max>``; they need not exist.

    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else _UNKNOWN_MEMORY]
    texts = [path.read_text(encoding="ascii").strip() for path in map(Path, limits) if path.is_file()]
    found += [int(text) for text in texts if text != "max"]
    taken = Path("/proc/self/statm")
    if resource is not None and taken.is_file():
        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(taken.read_text(encoding="ascii").split()[0])
        found += [max(0, most - pages * os.sysconf("SC_PAGE_SIZE"))] if most != resource.RLIM_INFINITY else []
    return min(found)


def limit_threads(most: int = 8) -> int:
    """Let torch use the processors of this process, but no more than ``most``, and return the number of threads.

    A batch of a few dozen small images does not keep more threads busy; they would only wait for each other.
    ``OMP_NUM_THREADS`` takes precedence if it is set. The number of threads changes the order of summation, and so the
    last bits of a training.

    Args:
        most: largest number of threads, default 8.

    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(most, available_processors()))
    return torch.get_num_threads()


def can_lock() -> bool:
    """Return whether the system has locks that end with their process: POSIX systems do."""
    return fcntl is not None


def try_lock(number: int) -> bool:
    """Try to lock an open file or folder, and return whether this process now has the lock, until it ends.

    Args:
        number: file descriptor.

    """
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
