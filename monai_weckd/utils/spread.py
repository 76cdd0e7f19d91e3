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

"""Map jobs over this process, several processes of this machine, or a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["EXECUTORS", "Spread", "map_jobs"]

EXECUTORS = ("local", "dask")
_HOW = "Start one with `dask scheduler --host 127.0.0.1`, and workers with `dask worker --nthreads 1`"

# seconds within which a scheduler must answer
_WAIT = 10.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Spread:
    """Where jobs run.

    Args:
        executor: "local" (this machine, the default) or "dask" (the workers of a scheduler).
        workers: number of local processes, default 1: this one.
        scheduler: address of Dask's scheduler, such as "tcp://127.0.0.1:8786", default None.

    Raises:
        ValueError: When the executor is unknown, or an option does not belong to it.

    """

    executor: str = "local"
    workers: int = 1
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise ValueError(f"executor: expected one of {EXECUTORS}, got {self.executor!r}. Pass one of them.")
        if self.workers < 1:
            raise ValueError(f"workers: expected 1 or more, got {self.workers}. Pass such a number.")
        if self.executor == "dask" and self.workers > 1:
            raise ValueError(
                f"workers: expected none with executor 'dask', got {self.workers}. Its scheduler has them."
            )
        if self.executor == "dask" and not self.scheduler:
            raise ValueError(f"scheduler: expected the address of a Dask scheduler, got none. {_HOW}.")
        if self.executor == "local" and self.scheduler:
            raise ValueError(
                f"scheduler: expected none with executor 'local', got {self.scheduler!r}. Pass --executor dask."
            )


def map_jobs(function: Callable[[Any], Result], jobs: Iterable[Any], spread: Spread) -> Iterator[Result]:
    """Yield the results of jobs as they finish.

    A job whose Dask worker dies goes to another worker. Results that were yielded are never computed again.

    Args:
        function: does one job; for other processes it must be importable there.
        jobs: the jobs; for other processes they are pickled.
        spread: where they run.

    Raises:
        ValueError: When the scheduler cannot be reached, or its workers have several threads.
        ImportError: When ``joblib`` or ``distributed`` is not installed.
        ChildProcessError: When workers died too often.

    """
    try:
        from joblib import Parallel, delayed
    except ImportError as error:
        raise ImportError("joblib: expected for compare, got no such package. Install monai-weckd[compare].") from error
    with _backend(spread) as backend:
        # yield each result at once, and submit all jobs at once, so that workers that join later get some
        run = Parallel(batch_size=1, pre_dispatch="all", return_as="generator_unordered", **backend)
        results = run(delayed(function)(job) for job in jobs)
        while True:
            try:
                result = next(results)
            except StopIteration:
                return
            except Exception as error:
                if type(error).__name__ in ("TerminatedWorkerError", "KilledWorker", "BrokenProcessPool"):
                    raise ChildProcessError(
                        f"executor: expected live workers, got one that died ({type(error).__name__}). "
                        "Finished results are kept: run the command again to continue."
                    ) from error
                raise
            yield result


@contextmanager
def _backend(spread: Spread) -> Iterator[dict[str, Any]]:
    if spread.executor == "local":
        yield {"n_jobs": spread.workers}
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError(
            "distributed: expected for executor 'dask', got no such package. Install monai-weckd[spread]."
        ) from error
    from joblib import parallel_config

    try:
        client = Client(spread.scheduler, timeout=_WAIT, set_as_default=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"scheduler: expected a Dask scheduler at {spread.scheduler!r}, got none ({reason}). {_HOW}."
        ) from error
    with client:
        # torch's generators and MONAI's determinism belong to a process: two trainings in one would mix them
        threads = max(client.nthreads().values(), default=1)
        if threads > 1:
            raise ValueError(
                f"scheduler: expected workers of one thread, got {threads} threads. Start them with --nthreads 1."
            )
        with parallel_config(backend="dask", client=client, wait_for_workers_timeout=60):
            yield {}
