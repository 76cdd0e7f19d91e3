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


"""This package's routes below ``/weckd``. They use the same session as MONAI Label's own routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from monai_weckd.annotation import AnnotationSession, Suggestion, describe_image, image_png
from monai_weckd.annotation.alike import confirm_batch, find_batch, related_images, similar_labeled
from monai_weckd.annotation.images import first_readable, middle_readable
from monai_weckd.annotation.labels_in import read_upload, take_incoming
from monai_weckd.apps.label.guard import person
from monai_weckd.data.dicom.patients import image_id as name_in

__all__ = ["make_router"]


class GivenLabel(BaseModel):
    """Body of a request that gives a label."""

    label: str | dict[str, int | None]
    undo: bool = False
    settle: bool = False


class ConfirmedBatch(BaseModel):
    """Body of a request that labels a batch."""

    label: str
    ids: list[str] = Field(min_length=1, max_length=1000)


class NewClass(BaseModel):
    """Body of a request that adds a class or finding."""

    name: str = Field(max_length=1000)
    sure: bool = False


class Manifest(BaseModel):
    """Body of a request that shows, or takes, the labels of a manifest."""

    name: str = Field(max_length=255)
    text: str
    take: bool = False


class Wanted(BaseModel):
    """Body of a request for the next images of a window."""

    window: str = Field(max_length=64)
    count: int = Field(1, ge=1, le=1000)
    without: list[str] = Field(default=[], max_length=1000)


def make_router(session: AnnotationSession) -> APIRouter:
    """Return the routes of a session.

    Args:
        session: images, labels and chain.

    """
    router = APIRouter(prefix="/weckd", tags=["monai_weckd"])

    @router.get("/state")
    def state(window: str | None = None) -> dict[str, Any]:
        name, is_asked = person()
        if window is not None:
            session.leases.seen(window[:64])
        return {**session.state(who=name), "person": name, "asks_name": is_asked}

    @router.get("/next", response_model=None)
    def next_image(count: int = 1) -> dict[str, Any] | JSONResponse:
        if not 1 <= count <= 1000:
            raise ValueError(f"count: expected a number from 1 to 1000, got {count}. Pass another.")
        return _answered(session.next(count=count, who=person().name))

    @router.post("/next", response_model=None)
    def next_of_window(wanted: Wanted) -> dict[str, Any] | JSONResponse:
        found = session.next(
            count=wanted.count, who=person().name, window=wanted.window, without=frozenset(wanted.without)
        )
        return _answered(found)

    @router.post("/class")
    def add_class(new: NewClass) -> dict[str, Any]:
        name, added = session.add_class(new.name, who=person().name, sure=new.sure)
        return {"name": name, "added": added, "classes": list(session.classes)}

    @router.post("/train", status_code=202)
    def train() -> dict[str, Any]:
        from monailabel.utils.async_tasks.task import AsyncTask

        AsyncTask.run("train", request={"model": "chain"}, enqueue=True)
        return session.state()["training"]

    @router.delete("/train", status_code=202)
    def stop() -> dict[str, Any]:
        session.stop()
        return session.state()["training"]

    _add_images(router, session)
    _add_sets(router, session)
    return router


def _answered(suggestions: list[Suggestion]) -> dict[str, Any] | JSONResponse:
    if not suggestions:
        return JSONResponse({"detail": "done: expected images without a label, got none left."}, status_code=404)
    first, *others = map(suggested, suggestions)
    return {**first, "more": others}


def _checked(number: int, paths: Sequence[str]) -> int:
    """Return the place of an image of an item, unless there is none."""
    if not 0 <= number < len(paths):
        raise ValueError(f"image: expected a number from 0 to {len(paths) - 1}, got {number}. Pass another.")
    return number


def _add_images(router: APIRouter, session: AnnotationSession) -> None:
    """Add the routes of single images."""

    # registered before the next route, which would read "/png" as part of the id
    @router.get("/image/{image_id:path}/png", response_class=Response)
    def picture(
        image_id: str,
        image: int | None = None,
        number: Annotated[int | None, Query(alias="slice")] = None,
        center: float | None = None,
        width: float | None = None,
    ) -> Response:
        paths = session.images(image_id)
        place = middle_readable(paths) if image is None else _checked(image, paths)
        content = image_png(paths[place], number=number, center=center, width=width)
        return Response(content, media_type="image/png", headers={"Cache-Control": "no-store"})

    @router.get("/image/{image_id:path}")
    def described(image_id: str, image: int | None = None) -> dict[str, Any]:
        paths = session.images(image_id)
        place = first_readable(paths) if image is None else _checked(image, paths)
        return {
            "id": image_id,
            "label": session.readers.known_to(image_id, person().name),
            "mine": session.readers.is_own(image_id, person().name),
            "blind": session.readers.is_blind(image_id, person().name),
            "image": place,
            "images": len(paths),
            "file": name_in(paths[place], session.studies.absolute()),
            **describe_image(paths[place]),
        }

    @router.put("/label/{image_id:path}")
    def put_label(image_id: str, given: GivenLabel) -> dict[str, Any]:
        previous = session.put_label(image_id, given.label, who=person().name, undo=given.undo, settle=given.settle)
        return {"id": image_id, "label": given.label, "previous": previous, "budget": session.budget()}

    @router.delete("/label/{image_id:path}")
    def remove_label(image_id: str) -> dict[str, Any]:
        session.remove_label(image_id, who=person().name)
        return {"id": image_id, "label": None, "budget": session.budget()}

    @router.post("/skip/{image_id:path}")
    def skip(image_id: str) -> dict[str, Any]:
        session.skip(image_id, who=person().name)
        return {"id": image_id}

    @router.delete("/skip/{image_id:path}")
    def undo_skip(image_id: str) -> dict[str, Any]:
        session.skip(image_id, who=person().name, undo=True)
        return {"id": image_id}

    @router.get("/predict/{image_id:path}")
    def predict(image_id: str) -> dict[str, Any]:
        return session.predict(*session.images(image_id))


def _add_sets(router: APIRouter, session: AnnotationSession) -> None:
    """Add the routes about several images."""

    @router.get("/batch", response_model=None)
    def batch(window: str | None = None, count: int = 12) -> dict[str, Any] | JSONResponse:
        found = find_batch(session, who=person().name, window=window and window[:64], count=min(count, 100))
        if found is None:
            text = "batch: expected images that look alike and of which the model is confident, got none yet."
            return JSONResponse({"detail": f"{text} Label more images one by one."}, status_code=404)
        images = zip(found.ids, found.probabilities, strict=True)
        return {"label": found.label, "images": [{"id": key, "probability": value} for key, value in images]}

    @router.put("/batch")
    def confirm(given: ConfirmedBatch) -> dict[str, Any]:
        found = confirm_batch(session, given.label, given.ids, who=person().name)
        return {**found, "label": given.label, "budget": session.budget()}

    @router.get("/related/{image_id:path}")
    def related(image_id: str) -> list[str]:
        return related_images(session, image_id)

    @router.get("/similar/{image_id:path}")
    def similar(image_id: str) -> list[dict[str, Any]]:
        return similar_labeled(session, image_id, who=person().name)

    @router.post("/labels")
    def labels(manifest: Manifest) -> dict[str, Any]:
        found = read_upload(session, manifest.name, manifest.text.encode())
        if manifest.take:
            take_incoming(session, found, who=person().name)
        return {**found.summary(session), "taken": manifest.take}


def suggested(one: Suggestion) -> dict[str, Any]:
    """Return a suggestion as JSON-compatible data.

    Args:
        one: the suggestion.

    """
    probabilities = None if one.probabilities is None else [float(value) for value in one.probabilities]
    return {"id": one.id, "reason": one.reason, "probabilities": probabilities}
