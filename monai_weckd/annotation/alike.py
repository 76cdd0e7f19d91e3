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

"""Images that look alike: batches without a label to confirm at once, and labeled ones to compare with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_weckd.annotation.order import Scores
from monai_weckd.annotation.session import AnnotationSession

__all__ = ["Batch", "confirm_batch", "find_batch", "most_alike", "related_images", "similar_labeled"]

_CONFIDENT = 0.9  # least probability of an image in a batch
_MOST = 500  # images that are compared with each other


@dataclass(frozen=True)
class Batch:
    """Images without a label that look alike, and of which a model is confident.

    Args:
        label: the class that it gives to all of them.
        ids: ids of the images, those first that are most like the others.
        probabilities: of the class, one for each.

    """

    label: str
    ids: tuple[str, ...]
    probabilities: tuple[float, ...]


def find_batch(
    session: AnnotationSession, *, who: str | None = None, window: str | None = None, count: int = 12
) -> Batch | None:
    """Return images without a label that the current head gives one class with a probability of 0.9 or more.

    Of the class with most such images, it is the image with the smallest mean distance to its nearest others, and
    these. The distance is one minus the cosine of the images' points
    (:py:func:`monai_weckd.annotation.order.components`). Images that are read twice, and those that other windows
    show, are in no batch.

    Args:
        session: the session, of classes.
        who: the person, default None: unknown.
        window: name of the window that asks, default None: none.
        count: how many images at most, default 12.

    Returns:
        The batch; None where fewer than two such images are left, or nothing has been learned.

    Raises:
        ValueError: When images have findings, or the count is below 2.

    """
    if session.kind.findings:
        raise ValueError("batch: expected one class an image, got findings. Label these images one by one.")
    if count < 2:
        raise ValueError(f"count: expected 2 images or more, got {count}. Pass e.g. 12.")
    outputs = session.chain.outputs
    probabilities = outputs.probabilities
    if probabilities is None:
        return None
    items, entries = session.items, session.store.entries
    elsewhere = session.leases.others(window)
    left = np.array([key in items and key not in entries and key not in elsewhere for key in outputs.ids], dtype=bool)
    sure = np.flatnonzero(left & (probabilities.max(axis=1) >= _CONFIDENT))
    rows = [row for row in sure.tolist() if not session.readers.is_blind(outputs.ids[row], who)]
    if len(rows) < 2:
        return None
    called = probabilities[rows].argmax(axis=1)
    label = int(np.bincount(called).argmax())
    mine = [row for row, one in zip(rows, called.tolist(), strict=True) if one == label]
    if len(mine) < 2:
        return None
    mine.sort(key=lambda row: -probabilities[row, label])
    chosen = _nearest_together(outputs.points[mine[:_MOST]], count)
    found = [mine[place] for place in chosen]
    return Batch(
        session.classes[label],
        tuple(outputs.ids[row] for row in found),
        tuple(float(probabilities[row, label]) for row in found),
    )


def confirm_batch(
    session: AnnotationSession, label: str, ids: Sequence[str], *, who: str | None = None
) -> dict[str, list[str]]:
    """Label images at once; each line of the log says that it was confirmed in a batch, and of how many images.

    Args:
        session: the session, of classes.
        label: the class.
        ids: ids of the images.
        who: the person, default None: unknown.

    Returns:
        The images that are ``labeled`` now, and those that were ``left`` as they are, since they have got a label
        meanwhile, or are read twice.

    Raises:
        UnknownImageError: When there is no such image.
        ValueError: When images have findings, or there is no such class.

    """
    if session.kind.findings:
        raise ValueError("batch: expected one class an image, got findings. Label these images one by one.")
    for key in ids:
        session.item(key)
    entries = session.store.entries
    free = [key for key in ids if key not in entries and not session.readers.is_blind(key, who)]
    session.put_labels(dict.fromkeys(free, label), who=who, info={"batch": len(free)})
    return {"labeled": free, "left": [key for key in ids if key not in free]}


def similar_labeled(
    session: AnnotationSession, image_id: str, *, who: str | None = None, count: int = 3
) -> list[dict[str, Any]]:
    """Return the labeled images that are most like an image, the nearest first, each with the label that counts.

    They are the first labeled ones of :py:meth:`monai_weckd.annotation.explore.Explorer.alike`.

    Args:
        session: the session.
        image_id: id of the image.
        who: the person, default None: unknown. One who reads the image blind is shown none.
        count: how many at most, default 3.

    Raises:
        UnknownImageError: When there is no such image.

    """
    session.item(image_id)
    scores, readers, entries = session.chain.scores, session.readers, session.store.entries
    if image_id not in scores.places or readers.is_blind(image_id, who):
        return []
    found: list[dict[str, Any]] = []
    for key in most_alike(scores, session.chain.points, image_id, among=entries):
        if key == image_id or key not in session.items or readers.is_blind(key, who):
            continue
        label = readers.known_to(key, who)
        if label is not None and label not in session.answers:
            found.append({"id": key, "label": label})
        if len(found) == count:
            break
    return found


def most_alike(
    scores: Scores, points: np.ndarray, image_id: str, *, among: Collection[str] | None = None
) -> Iterator[str]:
    """Return the ids of scored images by the cosine of their points to that of one, which comes first itself.

    Args:
        scores: scores of N images.
        points: their points, (N, D), see :py:func:`monai_weckd.annotation.order.components`.
        image_id: id of the one.
        among: ids of the images, scored or not, default None: all that are scored.

    """
    place = scores.places[image_id]
    cosine = points @ points[place]
    cosine[place] = 2  # before copies of itself
    if among is None or 4 * len(among) > len(cosine):  # to look for many takes longer than to put all in order
        rows = np.arange(len(cosine))
    else:
        rows = np.array(sorted(scores.places[key] for key in among if key in scores.places), dtype=int)
    ordered = (scores.ids[row] for row in rows[np.argsort(-cosine[rows], kind="stable")])
    return ordered if among is None else (key for key in ordered if key in among)


def related_images(session: AnnotationSession, image_id: str, *, count: int = 6) -> list[str]:
    """Return ids of other images of the same group, such as the other views of a patient, those nearest by name first.

    Args:
        session: the session.
        image_id: id of the image.
        count: how many at most, default 6.

    Raises:
        UnknownImageError: When there is no such image.

    """
    session.item(image_id)
    members = session.groups.members(image_id, session.items)
    own = members.index(image_id)
    nearest = sorted((abs(place - own), place) for place in range(len(members)) if place != own)[:count]
    return [members[place] for place in sorted(place for _, place in nearest)]


def _nearest_together(unit: np.ndarray, count: int) -> list[int]:
    """Return the rows, (N, D), of the tightest group: a row and its nearest others."""
    distances = 1 - unit @ unit.T
    np.fill_diagonal(distances, -1)  # a row is its own nearest
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    means = np.take_along_axis(distances, order[:, 1:], axis=1).mean(axis=1)
    return order[int(means.argmin())].tolist()
