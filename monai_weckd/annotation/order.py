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

"""Rank unlabeled images: keep the last student's outputs, and choose which images to label next."""

from __future__ import annotations

import io
import logging
import os
import zlib
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monai_weckd.data.item_level import has_several, images_in
from monai_weckd.data.npz import read_array
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.plan.splits import group_of
from monai_weckd.selection import SelectionContext, select_items
from monai_weckd.selection.projection import main_components
from monai_weckd.utils.draws import hash_fraction
from monai_weckd.utils.files import link_or_copy, write_atomically

__all__ = ["Outputs", "Scores", "Suggestion", "components", "digests", "suggest"]

logger = logging.getLogger(__name__)


class Suggestion(NamedTuple):
    """An image to label next.

    Args:
        id: id of the image.
        reason: why it was chosen, in one line.
        probabilities: probabilities by the last student, (C,); None without a student, or if it has not seen the image.

    """

    id: str
    reason: str
    probabilities: np.ndarray | None


class Outputs(NamedTuple):
    """What a network says of images.

    Args:
        ids: ids of the images.
        points: unit vectors whose cosine says how alike two images are, see :py:func:`components`, (N, min(D, 64)).
        probabilities: (N, C); None before anything is learned.

    """

    ids: tuple[str, ...]
    points: np.ndarray
    probabilities: np.ndarray | None


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Scores:
    """Outputs of a student for images, kept in a file so that each student processes each image only once.

    Args:
        made_by: digest of the student, "" for the network before the first stage.
        ids: ids of the images.
        features: input of the head, (N, D).
        probabilities: class probabilities, (N, C), or (N, 0) before there is a student.
        disagreement: total variation distance to the probabilities of the previous student, of findings its mean,
            (N,); 0 without one.
        unreadable: reason by id for each image that cannot be read.
        file: file that holds the features, None if they are not saved.
        made_of: digest of the names of an item's images by its id; none where an item is an image.

    """

    made_by: str
    ids: tuple[str, ...]
    features: np.ndarray
    probabilities: np.ndarray
    disagreement: np.ndarray
    unreadable: Mapping[str, str]
    file: Path | None = None
    made_of: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def places(self) -> dict[str, int]:
        """Row of each image by its id."""
        return {key: place for place, key in enumerate(self.ids)}

    @classmethod
    def empty(cls, made_by: str) -> Scores:
        """Return scores without any image.

        Args:
            made_by: digest of the student.

        """
        return cls(made_by, (), np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32), np.zeros(0), {})

    def with_more(
        self,
        ids: Sequence[str],
        features: np.ndarray,
        probabilities: np.ndarray,
        unreadable: Mapping[str, str],
        *,
        findings: bool = False,
        made_of: Mapping[str, int] | None = None,
    ) -> Scores:
        """Return new scores that also cover further images.

        Args:
            ids: ids of the further images.
            features: (n, D).
            probabilities: by the last students, the newest last, (number of students, n, C).
            unreadable: reason by id for each image that cannot be read.
            findings: whether the probabilities are those of findings, default False.
            made_of: of these images, default none.

        """
        last = probabilities[-1] if len(probabilities) else np.zeros((len(ids), 0), np.float32)
        change = np.zeros(len(ids))
        if len(probabilities) > 1:
            differ = np.abs(last - probabilities[-2])
            change = differ.mean(axis=1) if findings else 0.5 * differ.sum(axis=1)
        rows, chances, changes = features, last, change
        if self.ids:
            parts = [(self.features, features), (self.probabilities, last), (self.disagreement, change)]
            rows, chances, changes = (np.concatenate(pair) for pair in parts)
        bad, made_of = {**self.unreadable, **unreadable}, {**self.made_of, **(made_of or {})}
        return Scores(self.made_by, (*self.ids, *ids), rows, chances, changes, bad, made_of=made_of)

    def without(self, ids: Collection[str]) -> Scores:
        """Return scores without some items.

        Args:
            ids: ids of these items.

        """
        rows = [place for place, key in enumerate(self.ids) if key not in ids]
        kept = tuple(self.ids[place] for place in rows)
        arrays = (self.features[rows], self.probabilities[rows], self.disagreement[rows])
        made_of = {key: self.made_of[key] for key in kept if key in self.made_of}
        return Scores(self.made_by, kept, *arrays, self.unreadable, made_of=made_of)

    def changed(self, made_of: Mapping[str, int]) -> set[str]:
        """Return the ids of scored items that have other images now.

        Args:
            made_of: as in the arguments, of the items as they are.

        """
        return {key for key, digest in made_of.items() if key in self.places and self.made_of.get(key) != digest}

    def sharing(self, other: Scores) -> Scores:
        """Return these scores with the features of others if they are the same, so that they are saved once.

        Args:
            other: the others.

        """
        same = np.array_equal(self.features, other.features)
        return replace(self, features=other.features, file=other.file) if same else self

    def save(self, folder: str | os.PathLike[str]) -> Scores:
        """Write ``scores.npz`` and ``features.npy``, each atomically, and return scores that name the features' file.

        Args:
            folder: an existing folder.

        """
        file = Path(folder) / "features.npy"
        if self.file is None:
            buffer = io.BytesIO()
            np.save(buffer, self.features)
            write_atomically(file, buffer.getbuffer())
        elif self.file != file:
            link_or_copy(self.file, file)
        buffer = io.BytesIO()
        content: dict[str, Any] = {name: getattr(self, name) for name in ("probabilities", "disagreement")}
        content.update(
            features_sum=_sum(self.features),
            made_by=self.made_by,
            ids=self.ids,
            made_of=[self.made_of.get(key, 0) for key in self.ids],
            bad=[*self.unreadable],
            why=[*self.unreadable.values()],
        )
        for name in ("ids", "bad", "why"):
            content[name] = np.array(content[name], dtype=np.str_)  # NumPy makes an empty list an array of floats
        np.savez(buffer, **content)
        write_atomically(Path(folder) / "scores.npz", buffer.getvalue())
        return replace(self, file=file)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], made_by: str) -> Scores:
        """Return the scores in a folder if they are from the given student, else empty scores.

        Args:
            folder: the folder.
            made_by: digest of the student.

        """
        path, file = Path(folder) / "scores.npz", Path(folder) / "features.npy"
        if not path.is_file():
            return cls.empty(made_by)
        try:
            return cls._read(path, file, made_by)
        except Exception as error:  # NumPy and zipfile raise anything for damaged bytes
            logger.warning("%s: expected scores, got %s. They are computed again.", path, type(error).__name__)
            return cls.empty(made_by)

    @classmethod
    def _read(cls, path: Path, file: Path, made_by: str) -> Scores:
        content = partial(read_array, str(path))
        if str(content("made_by")) != made_by:
            return cls.empty(made_by)
        bad = dict(zip(content("bad").tolist(), content("why").tolist(), strict=True))
        probabilities, change = content("probabilities"), content("disagreement")
        ids, features = tuple(content("ids").tolist()), np.load(file, allow_pickle=False)
        if content("features_sum") != _sum(features):
            raise ValueError("expected the features that were written, got others")
        if probabilities.ndim != 2 or not len(ids) == len(probabilities) == len(change):
            raise ValueError(f"expected scores of {len(ids)} images, got those of others")
        # the features are written first, so after an interruption they may be of more images
        made_of = {key: digest for key, digest in zip(ids, content("made_of").tolist(), strict=True) if digest}
        known = cls(made_by, ids, features, probabilities, change, bad, file, made_of)
        return known if len(features) == len(ids) else cls.empty(made_by)


def digests(items: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return a digest of the names of an item's images, above 0, by its id; nothing where an item is an image.

    Args:
        items: all items.

    """
    if not has_several(items):
        return {}
    names = {item["id"]: "\n".join(map(os.path.basename, images_in(item))) for item in items}
    return {key: 1 + zlib.crc32(text.encode(errors="surrogateescape")) for key, text in names.items()}


def _sum(features: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(features).data)


def suggest(
    scores: Scores,
    items: Sequence[Mapping[str, Any]],
    labeled: Container[str],
    *,
    kind: LabelKind,
    count: int,
    stage: int,
    seed: int,
    guide: np.ndarray | None = None,
    points: np.ndarray | None = None,
    plural: str = "images",
) -> list[Suggestion]:
    """Choose the images to label next, and put them in order.

    Images that the network has not seen come first, since their value is unknown. Then come ``count`` others, chosen by
    :py:func:`monai_weckd.selection.select_items` with "herding". With a student, these are sorted by the disagreement
    of the last two students, largest first, then by the smallest margin.

    Args:
        scores: scores of the images.
        items: all images, dictionaries with ``id`` and, where known, ``group``.
        labeled: images with a label, by id.
        kind: names of the classes or findings.
        count: how many, at least 1; fewer where fewer are left.
        stage: number of the stage that the labels are for, from 1.
        seed: seed of the draws.
        guide: class probabilities to choose by, (N, C), default None: those of the scores.
        points: result of :py:func:`components` for the scores, default None: computed, which takes longest.
        plural: what the items are called in the reasons, default "images".

    """
    by_id = {item["id"]: item for item in items}
    todo = [key for key in by_id if key not in labeled and key not in scores.unreadable]
    known = scores.places
    fresh = sorted((key for key in todo if key not in known), key=lambda key: hash_fraction(seed, "fresh", key))
    unseen = [Suggestion(key, "not yet seen by the network", None) for key in fresh]
    left = len(todo) - len(fresh)
    if not left:
        return unseen
    ids = [key for key in scores.ids if key in by_id]
    rows = np.array([known[key] for key in ids])
    guided = scores.probabilities.shape[1] > 0
    if guide is None and guided:
        guide = scores.probabilities
    context = SelectionContext(
        features=(components(scores) if points is None else points)[rows],
        probabilities=None if guide is None else guide[rows],
        groups=[group_of(by_id[key]) for key in ids],
        labeled=np.array([key in labeled for key in ids]),
        askable=np.ones(len(ids), dtype=bool),
        seed=seed,
        stage=stage,
        findings=kind.findings,
        projected=True,
    )
    places = select_items("herding", context, count=min(count, left))
    if not guided:
        chosen = sorted((ids[place] for place in places), key=lambda key: hash_fraction(seed, "herding", key))
        return unseen + [Suggestion(key, f"stands for many {plural} without a label", None) for key in chosen]
    chosen_rows = sorted(
        (int(rows[place]) for place in places),
        key=lambda row: (-scores.disagreement[row], _margin(scores.probabilities[row], kind)),
    )
    return unseen + [_reasoned(scores, row, kind, plural) for row in chosen_rows]


def components(scores: Scores) -> np.ndarray:
    """Return the points between which "herding" measures distances, (N, min(D, 64)): they depend on no label.

    All that says how alike images are takes the cosine of these unit vectors, the main components.

    Args:
        scores: scores of N images.

    """
    return main_components(scores.features, np.arange(len(scores.ids)))


def _margin(probabilities: np.ndarray, kind: LabelKind) -> float:
    if kind.findings:
        return float(np.abs(2 * probabilities - 1).mean())
    second, first = np.sort(probabilities)[-2:]
    return float(first - second)


def _reasoned(scores: Scores, row: int, kind: LabelKind, plural: str) -> Suggestion:
    probabilities = scores.probabilities[row]
    if kind.findings:
        what = f"{kind.names[int(np.abs(probabilities - 0.5).argmin())]!r} or not"
    else:
        second, first = np.argsort(probabilities, kind="stable")[-2:]
        what = f"{kind.names[first]!r} or {kind.names[second]!r}"
    reason = f"stands for uncertain {plural}; {what} (margin {_margin(probabilities, kind):.2f})"
    if scores.disagreement[row] > 0:
        reason += f"; the last two students differ by {scores.disagreement[row]:.2f}"
    return Suggestion(scores.ids[row], reason, probabilities)
