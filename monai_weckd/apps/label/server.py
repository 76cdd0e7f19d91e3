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

"""Build the label server's application and run it."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from monai_weckd.annotation import AnnotationSession, NoStageError, StageRunningError, UnknownImageError
from monai_weckd.apps.label.compat import (
    UploadsEnd,
    keep_uploads_in,
    read_parameters_strictly,
    register_missing,
    run_tasks_in_threads,
)
from monai_weckd.apps.label.guard import Access, Guard

__all__ = ["make_application", "serve", "set_switching"]

logger = logging.getLogger(__name__)

# no network access, and no background task that starts by itself
_SETTINGS = {
    "BUNDLE_DOWNLOAD_SRC": "local",
    "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
    "MONAI_LABEL_SESSIONS": "false",
    "MONAI_LABEL_TRACKING_ENABLED": "false",
}
# TypeError is the client's fault: MONAI Label does not check the types in a request
_STATUS = {
    UnknownImageError: 404,
    StageRunningError: 409,
    NoStageError: 409,
    ValueError: 400,
    TypeError: 400,
    OSError: 500,  # such as a full disk
}
_SWITCH = 0.001  # seconds
_LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(session: AnnotationSession, *, host: str, port: int, access: Access) -> None:
    """Serve a session until the process ends.

    Args:
        session: images, labels and chain.
        host: address to listen on.
        port: port to listen on.
        access: who may use it.

    """
    import uvicorn

    application = make_application(session)
    # a server that others can reach has unknown host names, but always a password
    hosts = {*_LOCAL, host} if host in _LOCAL else None
    guard = Guard(application, hosts=hosts, access=access)
    set_switching()
    uvicorn.run(guard, host=host, port=port, log_level="warning", access_log=False)


def set_switching() -> None:
    """Let an answer go on sooner beside what learns in the background: it waits for the interpreter again and again."""
    sys.setswitchinterval(_SWITCH)


def make_application(session: AnnotationSession) -> Any:
    """Return an application with MONAI Label's routes for classification, and this package's app and routes.

    MONAI Label's routes for masks, other archives and logs are left out. So is its page, which loads external scripts.

    Args:
        session: images, labels and chain.

    Raises:
        ImportError: When MONAI Label is not installed.

    """
    os.environ.update(_SETTINGS)
    try:
        from monailabel.config import settings
    except ImportError as error:
        raise ImportError(f"monailabel: expected to be installed, got {error}. See docs/how-to/label.md.") from None
    register_missing()
    settings.MONAI_LABEL_APP_DIR = str(Path(__file__).parent)
    settings.MONAI_LABEL_STUDIES = str(session.studies)
    settings.MONAI_LABEL_APP_CONF = {"session": session}
    from fastapi import FastAPI
    from monailabel.endpoints import activelearning, batch_infer, datastore, infer, info, scoring, train
    from monailabel.interfaces.utils.app import app_instance

    from monai_weckd.apps.label.explore import make_explorer
    from monai_weckd.apps.label.page import make_page
    from monai_weckd.apps.label.routes import make_router

    instance = app_instance()
    run_tasks_in_threads(instance.check, instance.stop)
    keep_uploads_in(instance.uploads)
    read_parameters_strictly()
    instance.server_mode(True)
    app = FastAPI(title="monai_weckd label", docs_url=None, redoc_url=None)
    for endpoint in (info, infer, batch_infer, train, activelearning, scoring, datastore):
        app.include_router(endpoint.router)
    app.include_router(make_router(session))
    app.include_router(make_explorer(session))
    app.include_router(make_page())
    app.add_middleware(UploadsEnd)
    _answer_errors(app, session)
    instance.on_init_complete()
    return app


def _answer_errors(app: Any, session: AnnotationSession) -> None:
    """Answer each kind of error with its own status and a one-line message without paths of this machine."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from monailabel.interfaces.exception import MONAILabelException
    from starlette.exceptions import HTTPException

    given = (session.chain.output_dir, session.studies)
    # the longest path first, because the output folder may be inside the folder of the images
    folders = sorted({f"{one}{os.sep}" for path in given for one in (path.absolute(), path.resolve())}, key=len)[::-1]

    def answer(status: int, message: object) -> JSONResponse:
        text = " ".join(str(message).split())
        for folder in folders:
            text = text.replace(folder, "")
        return JSONResponse({"detail": text}, status_code=status)

    def refused(request: Any, error: Exception) -> JSONResponse:
        status = next(code for kind, code in _STATUS.items() if isinstance(error, kind))
        logger.log(
            logging.WARNING if isinstance(error, (TypeError, OSError)) else logging.INFO, "refused", exc_info=error
        )
        return answer(status, error)

    def invalid(request: Any, error: Any) -> JSONResponse:
        first = error.errors()[0]
        return answer(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    def failed(request: Any, error: Any) -> JSONResponse:
        # MONAI Label answers 500 when a parameter is missing
        return answer(400 if error.status_code == 500 else error.status_code, error.detail)

    for kind in _STATUS:
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(MONAILabelException, lambda request, error: answer(404, error.msg))
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, failed)
