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

"""The state of a label server: images, labels, training status and predictions, safe to use from several threads."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_weckd.annotation.background import Background
from monai_weckd.annotation.chain import AnnotatedChain
from monai_weckd.annotation.folders import FolderWatch
from monai_weckd.annotation.groups import Groups
from monai_weckd.annotation.images import find_items
from monai_weckd.annotation.leases import Leases
from monai_weckd.annotation.order import Suggestion
from monai_weckd.annotation.queues import Queues
from monai_weckd.annotation.readers import Readers
from monai_weckd.annotation.stage_training import StageTraining
from monai_weckd.annotation.state import session_state
from monai_weckd.annotation.status import NoStageError, UnknownImageError
from monai_weckd.annotation.store import ANSWERS, LabelStore
from monai_weckd.annotation.summaries import described
from monai_weckd.annotation.training import ImagePredictor
from monai_weckd.data.item_level import images_in
from monai_weckd.data.names import spelled_as
from monai_weckd.data.passed_over import PassedOver
from monai_weckd.plan.label_kind import LabelKind

__all__ = ["AnnotationSession"]

logger = logging.getLogger(__name__)

# how long a listing of the folder stays valid, in seconds
_LISTED_FOR = 5.0
# seconds until a label is learned from: its answer and the next image, which the page asks for then, come first
_PAUSE = 0.1


class AnnotationSession(StageTraining):
    """The images, labels and chain behind a label server.

    All methods may be called from several threads. Where the bundle's ``item_level`` is "series", "study" or "patient",
    an item with all images of one is in the place of an image: it has one id and one label.

    Args:
        chain: the chain; labels are kept in its output folder.
        studies: the folder of the images; new images are found within seconds.
        label_budget: planned number of labels, default None: unknown. It is reported, not enforced.
        read_twice: share of the images that two people read, default 0.
        disagreements: what becomes of those on which they differ: ``"settle"``, ``"majority"``, or ``"soft"``, by which
            they train with the shares of their readings.

    Raises:
        ValueError: When there is no image, a label budget below 1, or "soft" without a solved head.

    """

    def __init__(
        self,
        chain: AnnotatedChain,
        studies: str | os.PathLike[str],
        *,
        label_budget: int | None = None,
        read_twice: float = 0.0,
        disagreements: str = "settle",
    ) -> None:
        if label_budget is not None and label_budget < 1:
            raise ValueError(f"label_budget: expected 1 label or more, got {label_budget}. Pass e.g. 48.")
        if disagreements == "soft" and not chain.bundle.config.solves_heads:
            raise ValueError(
                "disagreements: expected 'settle' or 'majority' where a stage is trained step by step, got 'soft'. "
                "Only a solved head takes shares: leave scratch.json out."
            )
        self.label_budget = label_budget
        self.studies = Path(studies)
        kind = chain.bundle.kind
        known = [spelled_as(name, ANSWERS) for name in kind.names]
        self.answers = tuple(answer for answer in ANSWERS if answer not in known)
        labels_json = chain.output_dir / "labels.json"
        self.level: str = chain.bundle.item_level
        of_items: Any = {"item_level": self.level, "spatial_dims": chain.bundle.spatial_dims}
        super().__init__(
            chain, LabelStore(labels_json, kind.names, answers=self.answers, findings=kind.findings, **of_items)
        )
        self.readers = Readers(self.store, share=read_twice, policy=disagreements, seed=chain.bundle.seed)
        self.leases = Leases()
        self.queues = Queues()
        self.passed_over = PassedOver()
        self._lock = threading.Lock()
        self._watch = FolderWatch(self.studies)
        self._listing = Background(self.refresh, name="list", failed="the images could not be listed")
        # failures of these only affect the order of images
        self._looking = Background(self._look, name="look", failed="new images could not be scored")
        self._learning = Background(
            self._learn, name="learn", failed="the head could not be solved for the labels so far"
        )
        self._ordering = Background(self._order, name="order", failed="the next images could not be chosen")
        self._usable_of: tuple[Any, list[dict[str, Any]]] = (None, [])
        self.groups = Groups()
        self._listed: tuple[float, dict[str, dict[str, Any]]] = (-_LISTED_FOR, {})
        self._model: tuple[Any, ImagePredictor | None] = (None, None)
        self.refresh()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or of the findings, in the order of their indices."""
        return self.kind.names

    @property
    def kind(self) -> LabelKind:
        """Names of the classes or findings."""
        kind: LabelKind = self.chain.bundle.kind
        return kind

    @property
    def items(self) -> dict[str, dict[str, Any]]:
        """All images by their id; those that have come, or have gone, are noticed within seconds."""
        listed_at, items = self._listed
        if time.monotonic() - listed_at > _LISTED_FOR:
            self._listed = time.monotonic(), items
            if self._watch.has_changed:
                self._listing.start()
        return items

    @property
    def given(self) -> dict[str, str]:
        """Class or answer of each image in the folder that has one, in the order in which they were given."""
        items = self.items
        return {key: label for key, label in self.readers.decided().items() if key in items}

    @property
    def labels(self) -> dict[str, str]:
        """Class of each labeled image that is in the folder, in the order in which the labels were given."""
        return {key: label for key, label in self.given.items() if label not in self.answers}

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """Share of each class, by id of the images that train with what each of their readers says."""
        items = self.items
        return {key: shares for key, shares in self.readers.shared().items() if key in items}

    @property
    def _usable(self) -> list[dict[str, Any]]:
        """The images that nobody has set aside by an answer in place of a class."""
        items = self._listed[1]
        aside = [key for key, label in self.readers.decided().items() if label in self.answers]
        made_of, usable = self._usable_of
        if made_of is None or made_of[0] is not items or made_of[1] != aside:
            left_out = set(aside)
            usable = [item for key, item in items.items() if key not in left_out]
            self._usable_of = (items, aside), usable
        return usable

    def refresh(self) -> None:
        """List the images of the folder again."""
        self._watch.look()
        passed_over = PassedOver()
        spatial_dims = self.chain.bundle.spatial_dims
        items = find_items(self.studies, spatial_dims=spatial_dims, item_level=self.level, passed_over=passed_over)
        self.passed_over = passed_over
        self._listed = time.monotonic(), {item["id"]: item for item in items}

    def item(self, image_id: str) -> dict[str, Any]:
        """Return an image: its path as ``image``, ``id`` and ``group``; an item of several has ``images``.

        Args:
            image_id: its id.

        Raises:
            UnknownImageError: When there is no such image.

        """
        item = self.items.get(image_id)
        if item is None:
            raise UnknownImageError(
                f"id: expected {'an' if self.level == 'image' else 'a'} {self.level} in {self.studies.name!r}, got "
                f"{image_id!r}. Ask for the list."
            )
        return item

    def images(self, image_id: str) -> tuple[str, ...]:
        """Return the paths of an item's images; of an image its own.

        Args:
            image_id: id of the item.

        Raises:
            UnknownImageError: When there is no such item.

        """
        return images_in(self.item(image_id))

    def put_label(
        self,
        image_id: str,
        label: str | Mapping[str, Any],
        /,
        *,
        who: str | None = None,
        info: dict[str, Any] | None = None,
        undo: bool = False,
        settle: bool = False,
    ) -> str | None:
        """Label an image, and return its previous label if it had one; of one that is read twice, the person's own.

        Args:
            image_id: id of the image.
            label: the class, or findings, such as ``"effusion=1|nodule=0"``, or one of ``answers``: the image is then
                set aside, and neither asked for nor trained on.
            who: the person, default None: unknown.
            info: further information to keep with the label.
            undo: whether this takes back a correction, default False.
            settle: whether this decides between several readings, default False.

        Raises:
            UnknownImageError: When there is no such image.
            ValueError: When there is no such class.

        """
        self.item(image_id)
        previous = self.readers.put(image_id, label, who=who, settle=settle, info=info, undo=undo)
        self.queues.drop(who, {image_id})
        self.learn()
        return previous

    def put_labels(self, labels: Mapping[str, str], *, who: str | None = None, info: dict[str, Any]) -> None:
        """Label images that have no label, all or none of them.

        Args:
            labels: label of each image by its id.
            who: the person, default None: unknown.
            info: further information to keep with each label.

        Raises:
            ValueError: When there is no such class.

        """
        self.store.put_all(labels, who=who, info=info)
        self.queues.drop(who, labels)
        self.learn()

    def remove_label(self, image_id: str, *, who: str | None = None) -> None:
        """Withdraw a label.

        Args:
            image_id: id of the image.
            who: the person, default None: unknown.

        Raises:
            UnknownImageError: When there is no such image.
            ValueError: When it has no label.

        """
        self.item(image_id)
        self.store.remove(image_id, who=who)
        self.learn()

    def skip(self, image_id: str, *, who: str | None = None, undo: bool = False) -> None:
        """Log that somebody skipped an image.

        Args:
            image_id: id of the image.
            who: the person, default None: unknown.
            undo: whether this takes back a skip, default False.

        Raises:
            UnknownImageError: When there is no such image.

        """
        self.item(image_id)
        self.store.note("undo skip" if undo else "skip", who=who, id=image_id)
        if not undo:
            self.queues.drop(who, {image_id})

    def queue(self, image_ids: Sequence[str], *, who: str | None = None) -> int:
        """Let a person see some images next, ahead of the order, and return how many are in their queue.

        An image leaves the queue when that person labels or skips it; one that has a label is shown once. Images that
        cannot be read are left out.

        Args:
            image_ids: ids of the images, in order; none empties the queue.
            who: the person, default None: unknown.

        Raises:
            UnknownImageError: When there is no such image.
            ValueError: When the queue would be too long.

        """
        unreadable = self.chain.unreadable
        wanted = [key for key in image_ids if self.item(key)["id"] not in unreadable]
        if image_ids:
            self.queues.put(who, wanted)
        else:
            self.queues.drop(who, self.queues.of(who))
        self.store.note("queue", who=who, ids=wanted)
        return len(self.queues.of(who))

    def learn(self) -> None:
        """Solve the head for the labels so far, in the background; a call meanwhile solves it once more afterwards.

        During a stage nothing happens; its end calls this method.
        """
        if not self.training.running:
            self._learning.start()

    def _learn(self) -> None:
        time.sleep(_PAUSE)
        usable, labels, shares = self._usable, self.labels, self.shares
        self.chain.learn(usable, labels, shares)  # a chain that knows the class of each of these labels
        self._ordering.start()

    def _order(self) -> None:
        self.chain.renew(self._usable, self.store.entries)

    def next(
        self, *, count: int = 1, who: str | None = None, window: str | None = None, without: Collection[str] = ()
    ) -> list[Suggestion]:
        """Return the images to label next, those that wait for a second reading first; new ones are scored behind.

        Args:
            count: how many, default 1.
            who: the person, default None: unknown.
            window: name of a window that has these images until it asks again; others get different ones as long as
                there are any. Default None: no window.
            without: ids of images to leave out.

        """
        items, entries = self._usable, self.store.entries
        if not self.chain.knows(items):
            self.look()
        spare = len(without) + len(self.leases.others(window))
        chosen = self.chain.next(items, entries, count=count + spare)
        # what a window has got ready comes first, also if the order is another one meanwhile
        held = self.leases.held(window)
        self.queues.drop(who, {one.id for one in held[:1] if one.id in entries})  # it has been shown
        held = tuple(one for one in held if one.id not in entries and one.id in self.items)
        queued = [Suggestion(key, "you queued it", None) for key in self.queues.of(who) if key in self.items]
        first = self.readers.in_turn(queued, (), who)
        later = self.readers.in_turn([*held, *chosen], self.items, who)
        found: dict[str, Suggestion] = {}
        for one in (*first, *later):
            found.setdefault(one.id, one)
        return self.leases.take(window, [one for key, one in found.items() if key not in without], count=count)

    def look(self) -> None:
        """Score new images in the background."""
        self._looking.start()

    def _look(self) -> None:
        self.chain.score(list(self.items.values()))
        self.learn()
        self._student_changed()

    def predict(self, path: str, *others: str) -> dict[str, Any]:
        """Return the prediction of the last accepted student for an image, as JSON-compatible data.

        Args:
            path: a file, or the folder of a DICOM series.
            others: further images of an item, whose features are pooled; those that cannot be read are left out.

        Raises:
            NoStageError: When there is no student yet.
            ValueError: When no image can be read.

        """
        chain = self.chain
        predictor = self._predictor(chain)
        if predictor is None:
            raise NoStageError("model: expected a chain with a stage, got none yet. Label images and train first.")
        return described(predictor.predict(path, *others), chain.bundle.kind.names, chain.thresholds)

    def _student_changed(self) -> None:
        self._predictor(self.chain)

    def _predictor(self, chain: AnnotatedChain) -> ImagePredictor | None:
        accepted = chain.accepted
        key = (chain.bundle.kind, accepted[-1]["stage"]) if accepted else None
        with self._lock:
            if self._model[0] != key:
                self._model = key, chain.predictor()
            return self._model[1]

    def budget(self) -> int:
        """Return the number of labels given so far, including withdrawn labels that a stage has used."""
        return self.chain.budget(self.labels)

    def state(self, *, who: str | None = None) -> dict[str, Any]:
        """Return the state of images, labels, stages and training, as JSON-compatible data.

        Args:
            who: the person who asks, default None: unknown. They are not told what they may still read.

        """
        return session_state(self, who)
