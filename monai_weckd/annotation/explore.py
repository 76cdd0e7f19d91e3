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

"""See the whole set: a map of all images, lists of some of them, and images that are alike."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from monai_weckd.annotation.alike import most_alike
from monai_weckd.annotation.label_words import LabelWords, known_findings
from monai_weckd.annotation.live import LiveModel
from monai_weckd.annotation.order import Scores
from monai_weckd.utils.messages import nearest

__all__ = ["SHOWN", "Explorer", "Wish"]

# what a list may be of
SHOWN = ("all", "unlabeled", "labeled", "unsure", "contradicted", "unreadable", "queued")
_NONE = "no finding"
_STEPS = 10_000  # coordinates are whole numbers below this


@dataclass(frozen=True)
class Wish:
    """Which images a list is to have.

    Args:
        show: one of :data:`SHOWN`. "unsure" are images without a label, the smallest margin first; "contradicted" are
            labels that differ from what cross-validation predicts, the largest disagreement first.
        label: class, answer or, of findings, the first that is present, default None: any or none.
        predicted: class that the model predicts, default None: any or none.
        person: who gave the label, default None: anybody.

    """

    show: str = "all"
    label: str | None = None
    predicted: str | None = None
    person: str | None = None


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class _Opinions:
    """What a person may know of the scored images: N images, C classes or findings.

    Args:
        scores: scores of the images.
        words: how labels are written.
        given: label that the person may know, and who gave it, by id of any image.
        probabilities: by a model that has not learned from the image's label, (N, C), NaN where there is none or the
            person may not know it.
        change: total variation distance between the last two models, of findings its mean, (N,), NaN likewise.

    """

    scores: Scores
    words: LabelWords
    given: Mapping[str, tuple[str, str | None]]
    probabilities: np.ndarray
    change: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """What an image can be shown as: the classes or findings, no finding, the answers."""
        kind = self.words.kind
        return (*kind.names, *((_NONE,) if kind.findings else ()), *self.words.answers)

    def word_of(self, label: str) -> int:
        """Return the place of a label in ``names``; of findings, the first one that is present counts."""
        if label in self.words.answers or not self.words.kind.findings:
            return self.names.index(label)
        present = [name for name, value in known_findings(label).items() if value]
        return self.names.index(present[0] if present else _NONE)

    @cached_property
    def labels(self) -> np.ndarray:
        """Place in ``names`` of each image's label, -1 without one, (N,)."""
        found = np.full(len(self.scores.ids), -1)
        for key, (label, _) in self.given.items():
            if (row := self.scores.places.get(key)) is not None:
                found[row] = self.word_of(label)
        return found

    @cached_property
    def predicted(self) -> np.ndarray:
        """Place in ``names`` of the most probable class, -1 where there is none, (N,)."""
        found = np.full(len(self.probabilities), -1)
        if self.probabilities.shape[1]:
            known = ~np.isnan(self.probabilities).any(axis=1)
            chances = self.probabilities[known]
            found[known] = chances.argmax(axis=1)
            if self.words.kind.findings:
                found[np.flatnonzero(known)[chances.max(axis=1) < 0.5]] = len(self.words.kind.names)
        return found

    @cached_property
    def _against(self) -> dict[int, tuple[float, bool]]:
        """How far the prediction is from the label, and whether it is another one, by row of the labeled images."""
        found = {}
        for key, (label, _) in self.given.items():
            row = self.scores.places.get(key)
            if row is None or self.predicted[row] < 0 or label in self.words.answers:
                continue
            value, chances = self.words.value(label), self.probabilities[row]
            if self.words.kind.findings:
                told = value >= 0
                found[row] = (
                    float(np.abs(value - chances)[told].mean()),
                    bool(((chances >= 0.5) != (value == 1))[told].any()),
                )
            else:
                found[row] = float(1 - chances[value]), bool(chances.argmax() != value)
        return found

    @cached_property
    def disagreement(self) -> np.ndarray:
        """Total variation distance of a label to its prediction, or else ``change``, (N,)."""
        found = self.change.copy()
        for row, (distance, _) in self._against.items():
            found[row] = distance
        return found

    def contradicts(self, row: int) -> bool:
        """Return whether the label of an image is another one than its prediction."""
        return row in self._against and self._against[row][1]

    def unsure(self) -> np.ndarray:
        """Return the rows of images without a label, the smallest margin first."""
        rows = np.flatnonzero((self.labels < 0) & (self.predicted >= 0))
        chances = self.probabilities[rows]
        if self.words.kind.findings:
            margin = np.abs(2 * chances - 1).mean(axis=1)
        else:
            ordered = np.sort(chances, axis=1)
            margin = ordered[:, -1] - ordered[:, -2] if len(rows) else np.zeros(0)
        return rows[np.argsort(margin, kind="stable")]

    def contradicted(self) -> list[int]:
        """Return the rows of labels that differ from their predictions, the largest distance first."""
        rows = [row for row in self._against if self.contradicts(row)]
        return sorted(rows, key=lambda row: -self._against[row][0])


class Explorer:
    """What a person may see of all images of a session, as JSON-compatible data.

    Who reads an image blind (see :py:class:`~monai_weckd.annotation.readers.Readers`) is told neither its label by
    others nor a prediction.

    Args:
        session: the :py:class:`~monai_weckd.annotation.AnnotationSession`.

    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._judged: tuple[Any, np.ndarray, np.ndarray] = (None, np.zeros((0, 0)), np.zeros(0))

    def map(self, who: str | None) -> dict[str, Any]:
        """Return columns with an entry for each image that the network has seen.

        Args:
            who: the person who asks.

        Returns:
            ``item_level``; ``ids``; ``x`` and ``y``, the first two principal components, from 0 to 9999; ``label``, an
            index into ``words`` (the classes or findings, then the answers); ``predicted``, likewise, into the first
            ``predictable`` of them; ``disagreement`` in percent. -1 stands for what is not known. A label's prediction
            is by a head that saw no label of its group.

        """
        session, known = self._session, self._opinions(who)
        kept = np.array([place for place, key in enumerate(known.scores.ids) if key in session.items], dtype=int)
        points = session.chain.points[:, :2] if len(kept) else np.zeros((0, 2))
        shown = points[kept]
        if shown.shape[1] < 2:  # a single feature
            shown = np.column_stack([shown, np.zeros((len(shown), 2 - shown.shape[1]))])
        low, high = (shown.min(axis=0), shown.max(axis=0)) if len(kept) else (np.zeros(2), np.ones(2))
        places = ((shown - low) / np.where(high > low, high - low, 1) * (_STEPS - 1)).astype(int)
        percent = np.nan_to_num(np.round(100 * known.disagreement[kept]), nan=-1).astype(int)
        return {
            "item_level": session.level,
            "words": list(known.names),
            "predictable": len(known.names) - len(session.answers),
            "ids": [known.scores.ids[place] for place in kept],
            "x": places[:, 0].tolist(),
            "y": places[:, 1].tolist(),
            "label": known.labels[kept].tolist(),
            "predicted": known.predicted[kept].tolist(),
            "disagreement": percent.tolist(),
        }

    def gallery(self, wish: Wish, who: str | None, *, first: int = 0, count: int = 60) -> dict[str, Any]:
        """Return some images of a list, ``total``, the length of the list, and ``people``, who gave labels.

        Args:
            wish: which images.
            who: the person who asks.
            first: place of the first image.
            count: how many.

        Raises:
            ValueError: When there is no such list, class or answer.

        """
        known = self._opinions(who)
        _check(wish, known.names)
        keys = [key for key in self._listed(wish.show, known, who) if _suits(key, wish, known)]
        images = [self._described(key, known) for key in keys[first : first + count]]
        people = sorted({name for _, name in known.given.values() if name is not None})
        return {"total": len(keys), "people": people, "images": images}

    def alike(self, image_id: str, who: str | None, *, count: int = 60) -> dict[str, Any]:
        """Return the images most like one, itself first, see :py:func:`monai_weckd.annotation.alike.most_alike`.

        Args:
            image_id: its id.
            who: the person who asks.
            count: how many.

        Raises:
            UnknownImageError: When there is no such image.
            ValueError: When the network has not seen it.

        """
        self._session.item(image_id)
        known = self._opinions(who)
        if image_id not in known.scores.places:
            raise ValueError(
                f"id: expected an image that the network has seen, got {image_id!r}. Wait, or see why it is unreadable."
            )
        ordered = most_alike(known.scores, self._session.chain.points, image_id)
        keys = list(islice((key for key in ordered if key in self._session.items), count))
        return {"total": len(keys), "images": [self._described(key, known) for key in keys]}

    def _listed(self, show: str, known: _Opinions, who: str | None) -> Iterator[str] | list[str]:
        session = self._session
        items, unreadable = session.items, session.chain.unreadable
        if show == "queued":
            return [key for key in session.queues.of(who) if key in items]
        if show == "unreadable":
            return sorted(unreadable.keys() & items.keys())
        if show == "labeled":
            return [key for key in reversed(list(session.store.entries)) if key in known.given and key in items]
        if show in ("unsure", "contradicted"):
            rows = known.unsure() if show == "unsure" else known.contradicted()
            return (key for row in rows if (key := known.scores.ids[row]) in items)
        return (key for key in items if show == "all" or (key not in known.given and key not in unreadable))

    def _described(self, key: str, known: _Opinions) -> dict[str, Any]:
        row = known.scores.places.get(key)
        label, giver = known.given.get(key, (None, None))
        found = {"id": key, "label": label, "who": giver, "reason": self._session.chain.unreadable.get(key)}
        predicted = -1 if row is None else int(known.predicted[row])
        if row is None or predicted < 0:
            return {**found, "predicted": None, "probability": None, "disagreement": None, "contradicted": False}
        disagreement = float(known.disagreement[row])
        return {
            **found,
            "predicted": known.names[predicted],
            # of no finding: that of the most probable one is below one half
            "probability": float(known.probabilities[row].max()),
            "disagreement": None if np.isnan(disagreement) else disagreement,
            "contradicted": known.contradicts(row),
        }

    def _opinions(self, who: str | None) -> _Opinions:
        session = self._session
        readers, entries = session.readers, session.store.entries
        chain = session.chain  # after the labels, whose classes it knows
        scores = chain.scores
        given = {}
        for key, entry in entries.items():
            if (label := readers.known_to(key, who)) is not None:
                given[key] = label, who if readers.is_blind(key, who) else entry.get("who")
        probabilities, change = self._judgments(scores, chain.live, entries)
        blind = [place for place, key in enumerate(scores.ids) if readers.is_blind(key, who)] if readers.share else []
        if blind:
            probabilities, change = probabilities.copy(), change.copy()
            probabilities[blind], change[blind] = np.nan, np.nan
        words = LabelWords(chain.bundle.kind, session.answers)
        return _Opinions(scores, words, given, probabilities, change)

    def _judgments(
        self, scores: Scores, live: LiveModel | None, labeled: Collection[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions of all images, each by a model that has not seen its label, and how they changed."""
        key = (scores, live, tuple(labeled))
        if self._judged[0] != key:
            self._judged = key, *_judge(scores, live, labeled)
        return self._judged[1:]


def _judge(scores: Scores, live: LiveModel | None, labeled: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
    student = scores.probabilities
    found = np.array(student if live is None else live.probabilities, dtype=np.float64)
    change = np.full(len(scores.ids), np.nan)
    if live is not None and student.shape[1]:
        distance = np.abs(found - student)
        change = distance.mean(axis=1) if live.kind.findings else 0.5 * distance.sum(axis=1)
    elif scores.disagreement.any():
        change = scores.disagreement.astype(np.float64)
    rows = [row for key in labeled if (row := scores.places.get(key)) is not None]
    found[rows], change[rows] = np.nan, np.nan
    for key, held_out in ({} if live is None else live.held_out).items():
        found[scores.places[key]] = held_out
    return found, change


def _suits(key: str, wish: Wish, known: _Opinions) -> bool:
    label, giver = known.given.get(key, (None, None))
    if wish.person not in (None, giver):
        return False
    if wish.label is not None and (label is None or known.names[known.word_of(label)] != wish.label):
        return False
    if wish.predicted is None:
        return True
    row = known.scores.places.get(key)
    return row is not None and known.predicted[row] >= 0 and known.names[known.predicted[row]] == wish.predicted


def _check(wish: Wish, names: Sequence[str]) -> None:
    for what, known in (("show", SHOWN), ("label", names), ("predicted", names)):
        value = getattr(wish, what)
        if value is not None and value not in known:
            raise ValueError(f"{what}: expected one of {list(known)}, got {value!r}. {nearest(value, known)}")
