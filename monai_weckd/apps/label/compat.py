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


"""Adapt MONAI Label 0.8.5 to current dependencies and to a single process. Import it before ``monailabel``."""

from __future__ import annotations

import importlib
import json
import logging
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

from monai_weckd.annotation import StageStoppedError
from monai_weckd.annotation.store import check_info
from monai_weckd.utils.records import parse_json

__all__ = [
    "CheckedRequest",
    "UploadsEnd",
    "keep_uploads_in",
    "read_parameters_strictly",
    "register_missing",
    "run_tasks_in_threads",
]

logger = logging.getLogger(__name__)

# MONAI Label imports these at its start, but needs them for masks only: pydicom-seg breaks with pydicom 3, and the
# torchvision on PyPI is a CUDA build, which cannot be imported beside a CPU-only PyTorch
_FOR_MASKS = {"pydicom_seg": (), "torchvision": (), "torchvision.utils": ("make_grid", "save_image")}
_KEPT = 100
_LONGEST_SUFFIX = 32
# the files that the current request has uploaded
_brought: ContextVar[list[Path]] = ContextVar("brought")


def register_missing() -> None:
    """Register stub modules for optional dependencies that cannot be imported and that classification never uses."""
    for name, functions in _FOR_MASKS.items():
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError):
            module = ModuleType(name)
            for function in functions:
                setattr(module, function, _absent)
            sys.modules[name] = module


def keep_uploads_in(folder: Path) -> None:
    """Make MONAI Label keep uploads in a separate folder, so that no other file can pass for an upload.

    Args:
        folder: the folder. :py:class:`UploadsEnd` deletes a request's files from it before the answer.

    """
    from monailabel.endpoints import datastore, infer

    for endpoint in (datastore, infer):
        endpoint.tempfile = SimpleNamespace(NamedTemporaryFile=partial(_new_file, folder))


class UploadsEnd:
    """ASGI middleware that deletes the uploads of a request before it is answered, even if it is refused.

    Args:
        app: the application behind it.

    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, and delete its uploads.

        Args:
            scope: the connection.
            receive: returns the request's body.
            send: sends the answer.

        """
        files: list[Path] = []

        async def answer(message: Any) -> None:
            _delete(files)  # first, so that nothing is left once the client has the answer
            await send(message)

        token = _brought.set(files)
        try:
            await self.app(scope, receive, answer)
        finally:
            _brought.reset(token)
            _delete(files)  # the client has disconnected


def _delete(files: list[Path]) -> None:
    while files:
        files.pop().unlink(missing_ok=True)


class CheckedRequest(dict[str, Any]):
    """A request that was checked before its task began; no client can send this type."""


def read_parameters_strictly() -> None:
    """Make MONAI Label refuse parameters that are not plain JSON: it would accept NaN and then fail to return it."""
    from monailabel.endpoints import datastore, infer

    def loads(text: str) -> dict[str, Any]:
        found: dict[str, Any] = parse_json(text, where="params")
        check_info(found, where="params")
        return found

    for endpoint in (datastore, infer):
        endpoint.json = SimpleNamespace(loads=loads, dumps=json.dumps)


def run_tasks_in_threads(check: Callable[[str, dict[str, Any]], None], stop: Callable[[str], None]) -> None:
    """Make MONAI Label run its background tasks in threads of this process instead of subprocesses.

    A subprocess would lack this module.

    Args:
        check: called with method and request before a task is accepted; an error that it raises is the answer.
        stop: called with the method of a task to stop; an error that it raises is the answer.

    """
    from monailabel.interfaces.utils.app import app_instance
    from monailabel.utils.async_tasks import task as tasks
    from monailabel.utils.async_tasks import utils

    def run(request: dict[str, Any], method: str) -> dict[str, Any]:
        check(method, request)
        started = _now()
        task = {"id": str(uuid.uuid4()), "status": "RUNNING", "request": request, "start_ts": started, "details": []}
        kept = utils.background_tasks.setdefault(method, [])
        kept[:] = [*kept[1 - _KEPT :], task]
        running = utils.background_processes.setdefault(method, {})
        running[task["id"]] = threading.Thread(target=work, args=(task, method), name=method, daemon=True)
        running[task["id"]].start()
        return task

    def work(task: dict[str, Any], method: str) -> None:
        try:
            getattr(app_instance(), method)(CheckedRequest(task["request"]))
            task["status"] = "DONE"
        except StageStoppedError as error:
            task.update(status="STOPPED", details=[str(error)])
        except Exception as error:  # no caller waits for this thread: the task carries the error
            logger.exception("%s failed", method)
            task.update(status="ERROR", details=[" ".join(str(error).split())])
        finally:
            task["end_ts"] = _now()
            utils.background_processes[method].pop(task["id"], None)

    def end(method: str) -> dict[str, Any]:
        stop(method)
        last: dict[str, Any] = utils.background_tasks[method][-1]
        return last

    tasks.run_background_task, tasks.stop_background_task = run, end


def _new_file(folder: Path, suffix: str) -> Any:
    """Return a new file with a suffix; a long suffix is cut to its end, to give a valid file name."""
    if len(suffix) > _LONGEST_SUFFIX:
        suffix = f".{suffix.rpartition('.')[2][: _LONGEST_SUFFIX - 1]}"
    file = tempfile.NamedTemporaryFile(suffix=suffix, dir=folder)  # noqa: SIM115 - MONAI Label wants its name alone
    _brought.get().append(Path(file.name))
    return file


def _absent(*args: Any, **options: Any) -> NoReturn:
    raise NotImplementedError("masks: expected none in a classification, got some. Use MONAI Label's own apps.")


def _now() -> str:
    return datetime.today().strftime("%Y-%m-%d %H:%M:%S")
