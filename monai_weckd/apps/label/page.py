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


"""Serve the pages, clients of the routes below ``/weckd``. They load nothing from other servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

__all__ = ["make_page"]

_FOLDER = Path(__file__).parent / "page"
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


def make_page() -> APIRouter:
    """Return the routes of the pages: ``index.html`` at ``/``, another at its name, other files below ``/page``."""
    router = APIRouter(include_in_schema=False)
    for path in sorted(_FOLDER.iterdir()):
        router.add_api_route(_route(path), _giver(path))
    return router


def _route(path: Path) -> str:
    if path.suffix != ".html":
        return f"/page/{path.name}"
    return "/" if path.stem == "index" else f"/{path.stem}"


def _giver(path: Path) -> Callable[[], FileResponse]:
    def give() -> FileResponse:
        return FileResponse(path, media_type=_TYPES[path.suffix], headers=_HEADERS)

    return give
