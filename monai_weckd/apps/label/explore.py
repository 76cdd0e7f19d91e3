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

"""The routes of the page that shows the whole set, below ``/weckd``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from monai_weckd.annotation import AnnotationSession
from monai_weckd.annotation.explore import Explorer, Wish
from monai_weckd.annotation.images import middle_readable
from monai_weckd.annotation.pictures import thumbnail
from monai_weckd.annotation.queues import MOST_QUEUED
from monai_weckd.apps.label.guard import person

__all__ = ["make_explorer"]


class Queued(BaseModel):
    """Body of a request that puts images before all others."""

    ids: list[str] = Field(min_length=1, max_length=MOST_QUEUED)


def make_explorer(session: AnnotationSession) -> APIRouter:
    """Return the routes that show all images of a session.

    Args:
        session: images, labels and chain.

    """
    router = APIRouter(prefix="/weckd", tags=["monai_weckd"])
    explorer = Explorer(session)

    @router.get("/map", response_model=None)
    def map_of_all() -> JSONResponse:
        return JSONResponse(explorer.map(person().name))

    @router.get("/gallery", response_model=None)
    def gallery(
        show: str = "all",
        label: str | None = None,
        predicted: str | None = None,
        who: str | None = None,
        first: int = Query(0, ge=0),
        count: int = Query(60, ge=1, le=MOST_QUEUED),
    ) -> JSONResponse:
        wish = Wish(show, label, predicted, who)
        return JSONResponse(explorer.gallery(wish, person().name, first=first, count=count))

    @router.get("/alike/{image_id:path}", response_model=None)
    def alike(image_id: str, count: int = Query(60, ge=1, le=MOST_QUEUED)) -> JSONResponse:
        return JSONResponse(explorer.alike(image_id, person().name, count=count))

    @router.get("/thumbnail/{image_id:path}", response_class=Response)
    def small(image_id: str) -> Response:
        paths = session.images(image_id)
        content = thumbnail(paths[middle_readable(paths)])
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    @router.get("/queue")
    def queue() -> dict[str, Any]:
        return {"queued": len(session.queues.of(person().name))}

    @router.post("/queue")
    def put(wanted: Queued) -> dict[str, Any]:
        return {"queued": session.queue(wanted.ids, who=person().name)}

    @router.delete("/queue")
    def empty() -> dict[str, Any]:
        return {"queued": session.queue([], who=person().name)}

    return router
