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

"""The chain behind a labeling session: it adds a stage when new labels are in, and suggests the next images."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from monai_weckd.annotation.chain_folder import check_chain, folder_state, read_given, remove_leftovers, students_of
from monai_weckd.annotation.growth import grow_scored
from monai_weckd.annotation.label_files import known_names
from monai_weckd.annotation.label_words import LabelWords
from monai_weckd.annotation.learning import Learning
from monai_weckd.annotation.live import LiveModel
from monai_weckd.annotation.order import Outputs, Scores, Suggestion, digests
from monai_weckd.annotation.shards import GivenLabels, labeled_items, plan_next_stage
from monai_weckd.annotation.status import StageRunningError
from monai_weckd.annotation.training import AnnotatedBundle, ImagePredictor
from monai_weckd.annotation.upcoming import Upcoming
from monai_weckd.data.item_level import PLURALS
from monai_weckd.utils.files import sync_folder, write_atomically
from monai_weckd.utils.records import model_chain

__all__ = ["AnnotatedChain"]

logger = logging.getLogger(__name__)


class AnnotatedChain:
    """A chain that adds a stage when new labels are in, and suggests which images to label next.

    ``output_dir/chain`` is the output folder of the whole chain: ``chain.json``, ``model.pt``, the students of all
    stages. A new stage is trained in a folder beside it, which replaces it in one step at the end: an interruption
    leaves the chain unchanged. ``given.json`` in it lists the labels that the stages have used. If the bundle has more
    classes than the chain, those of the chain first, or people have added some, the heads of the students grow.

    Args:
        bundle: how to train.
        output_dir: folder of the chain; created if absent.
        val_fraction: fraction of the labeled groups in validation, in [0, 1), default 0: all labels are for training,
            and every stage is accepted.
        ahead: how many images to choose at a time, default 24.

    Raises:
        ValueError: When a number is out of range, or the chain in the folder is damaged or has other classes.

    """

    def __init__(
        self,
        bundle: AnnotatedBundle,
        output_dir: str | os.PathLike[str],
        *,
        val_fraction: float = 0.0,
        ahead: int = 24,
    ) -> None:
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction: expected a fraction in [0, 1), got {val_fraction}. Pass e.g. 0.25.")
        if ahead < 1:
            raise ValueError(f"ahead: expected 1 image or more, got {ahead}. Pass e.g. 24.")
        self.output_dir = Path(output_dir)
        self.val_fraction = val_fraction
        self.ahead = ahead
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self.bundle = bundle = bundle.with_names(known_names(self.output_dir / "labels.json", bundle.kind))
        self.words = LabelWords(bundle.kind)
        self._upcoming = Upcoming(bundle.kind, seed=bundle.seed, ahead=ahead, plural=PLURALS[bundle.item_level])
        self._learning = Learning(bundle)
        self._waiting: tuple[Any, Any, list[Mapping[str, Any]]] = (None, None, [])
        self._scores = Scores.empty("")
        self._loaded: Any = None
        self._load()

    @property
    def path(self) -> Path:
        """Output folder of the whole chain; it exists after the first stage."""
        return self.output_dir / "chain"

    @property
    def stages(self) -> list[dict[str, Any]]:
        """Records of all stages, as in ``chain.json``."""
        chain = self._chain
        return list(chain["stages"]) if chain else []

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """Records of the accepted stages; the student of the last one is the model."""
        return [stage for stage in self.stages if stage["accepted"]]

    @property
    def thresholds(self) -> list[float | None] | None:
        """From which probability on the model calls each finding present; None where an image has one class."""
        accepted = self.accepted
        return list(accepted[-1]["thresholds"]) if accepted and self.bundle.kind.findings else None

    @property
    def unreadable(self) -> dict[str, str]:
        """Reason by id for each image that could not be read; images that were not scored yet are missing."""
        return dict(self._scores.unreadable)

    def budget(self, labels: Mapping[str, str]) -> int:
        """Return the number of labels given so far, including withdrawn labels that a stage has used.

        Args:
            labels: class of each labeled image by its id.

        """
        return len(self.given.touched | labels.keys())

    def append_stage(
        self,
        items: Sequence[Mapping[str, Any]],
        labels: Mapping[str, str],
        *,
        progress: Callable[[int, int, int], None] | None = None,
        shares: Mapping[str, Mapping[str, float]] | None = None,
    ) -> dict[str, Any]:
        """Train a stage on the labels given since the last one, and add it to the chain.

        The first call starts the chain. In each later stage, the last accepted student is the teacher.

        Args:
            items: all images, dictionaries with ``image`` (a path), ``id`` and, where known, ``group``; or all items
                of several images, with ``images``.
            labels: class of each labeled image by its id, in the order in which they were given.
            progress: called after each epoch with stage, epoch of the stage, and the stage's epochs.
            shares: share of each class by id of the images whose readers differ, default None: none. Such an image
                counts once, under its label; a solved head takes its shares.

        Returns:
            The record of the stage, as in ``chain.json``; ``accepted`` says whether its student is now the model.

        Raises:
            ValueError: When there are too few labels.
            StageRunningError: When this or another process is already training a stage.

        """
        try:
            held = FileLock(self.output_dir / "stage.lock").acquire(timeout=0)
        except Timeout:
            raise StageRunningError(
                f"stage: expected none in training, got one in {self.output_dir}. Wait until it is done."
            ) from None
        with held, self._alone():
            self._load()  # another process may have added a stage
            return self._append(items, labels, progress, shares)

    def _append(
        self,
        items: Sequence[Mapping[str, Any]],
        labels: Mapping[str, str],
        progress: Callable[[int, int, int], None] | None,
        shares: Mapping[str, Mapping[str, float]] | None,
    ) -> dict[str, Any]:
        readable, unreadable = self.bundle.examine(items)
        plan, given = plan_next_stage(
            readable,
            labels,
            self.given,
            words=self.words,
            policy=self.bundle.policy,
            val_fraction=self.val_fraction,
            seed=self.bundle.seed,
            skipped=sorted(unreadable),
        )
        stage = plan.settings.num_stages
        if progress is not None:
            progress(stage, 0, self.bundle.epochs_of(stage))
        remove_leftovers(self.path)
        part = self.output_dir / f"chain_{stage}"
        part.mkdir()
        try:
            self.bundle.train(
                labeled_items(readable, labels, self.words, shares=shares),
                plan,
                part,
                previous=self.path if self.stages else None,
                earlier_epochs=[earlier["epochs"] for earlier in self.stages],
                progress=None if progress is None else partial(progress, stage),
            )
            write_atomically(part / "given.json", json.dumps(given.to_dict(), indent=1) + "\n")
            # scored here, so that the new student can rank images as soon as it is in place
            scores = self._look(part, readable, unreadable, digests(items)).save(part)
        except Exception:
            shutil.rmtree(part, ignore_errors=True)  # if the disk is full, this leaves room for labels
            raise
        self._replace(part)
        self._take(part, json.loads((part / "chain.json").read_text(encoding="utf-8")), given, scores)
        return self.stages[-1]

    def score(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Score the images that the last student has not seen, for :py:meth:`next`; waits for a running stage.

        Args:
            items: all images.

        """
        with self._alone():
            self._load()
            folder = self.path.resolve() if self.stages else self.output_dir
            scores = self._look(folder, *self.bundle.examine(items), digests(items))
            if scores is not self._scores:
                self._take(folder, self._chain, self.given, scores.save(folder))

    def learn(
        self,
        items: Sequence[Mapping[str, Any]],
        labels: Mapping[str, str],
        shares: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Solve the head for the labels so far; :py:meth:`renew` then chooses by its probabilities.

        The model stays that of the last stage, whose predictions are shown and served.

        It takes no lock and writes nothing. Nothing happens if the bundle's stages solve no head, before the images
        are scored, and while fewer than two classes have a label. One thread may call it at a time.

        Args:
            items: all images.
            labels: class of each labeled image by its id.
            shares: as in :py:meth:`append_stage`.

        """
        self._learning.solve(self._scores, items, labels, shares)

    def renew(self, items: Sequence[Mapping[str, Any]], labels: Mapping[str, Any]) -> None:
        """Choose the next images anew, and estimate how good the head of the last :py:meth:`learn` is.

        One thread may call it at a time, beside others that call other methods.

        Args:
            items: all images.
            labels: label of each labeled image by its id.

        """
        scores = self._scores
        if scores.ids:
            guide = partial(self._learning.guide, scores)
            self._upcoming.renew(scores, items, labels, stage=len(self.stages) + 1, guide=guide)
            self._learning.estimate(scores, items)

    @property
    def live(self) -> LiveModel | None:
        """The head of the last :py:meth:`learn`, None if it was not for the current images."""
        return self._learning.model(self._scores)

    @property
    def live_figures(self) -> dict[str, Any] | None:
        """What is known of that head, with ``summary``, ``estimate`` and ``before``; None without a head."""
        return self._learning.figures(self._scores)

    @property
    def scores(self) -> Scores:
        """Outputs of the last student."""
        return self._scores

    @property
    def points(self) -> np.ndarray:
        """The points of the scored images between which distances count, (N, min(D, 64))."""
        return self._upcoming.points(self._scores)

    @property
    def outputs(self) -> Outputs:
        """Points and current probabilities of all images, by the live head, else by the last student."""
        scores = self._scores
        probabilities = self._learning.guide(scores)
        if probabilities is None and scores.probabilities.shape[1]:
            probabilities = scores.probabilities
        points = self._upcoming.points(scores) if scores.ids else np.zeros((0, 0), np.float32)
        return Outputs(scores.ids, points, probabilities)

    def again(self) -> AnnotatedChain:
        """Return the chain as a new process would find it, with the classes that people have added."""
        return AnnotatedChain(self.bundle, self.output_dir, val_fraction=self.val_fraction, ahead=self.ahead)

    def _alone(self) -> FileLock:
        """Return the lock for computation: only one task runs at a time, so that others cannot affect a stage."""
        return FileLock(self.output_dir / "compute.lock")

    def _look(
        self,
        folder: Path,
        items: Sequence[Mapping[str, Any]],
        unreadable: Mapping[str, str],
        made_of: Mapping[str, int],
    ) -> Scores:
        """Return the scores of readable items by a folder's last student; compute those that it does not have."""
        students = students_of(folder)
        made_by = list(students)[-1] if students else ""
        earlier = self._scores
        scores = earlier if earlier.made_by == made_by else Scores.empty(made_by)
        if changed := scores.changed(made_of):
            scores = scores.without(changed)
        seen = set(scores.ids)
        unreadable = {key: fault for key, fault in unreadable.items() if key not in seen}
        new = [item for item in items if item["id"] not in seen]
        if unreadable != scores.unreadable:
            for key in unreadable.keys() - scores.unreadable.keys():
                logger.warning("left out %r: %s", key, unreadable[key])
            scores = replace(scores, unreadable=unreadable)
        if not new:
            return scores
        ids = tuple(item["id"] for item in new)
        digests_of_new = {key: made_of[key] for key in ids if made_of}
        options: Any = {"findings": self.bundle.kind.findings, "made_of": digests_of_new}
        if earlier.ids != ids or earlier.made_by not in [*students][-2:-1]:
            return scores.with_more(ids, *self.bundle.embed(new, [*students.values()][-2:]), unreadable, **options)
        # the student before the last one has scored the same images
        features, probabilities = self.bundle.embed(new, [*students.values()][-1:])
        both = np.stack([earlier.probabilities, *probabilities])
        found = scores.with_more(ids, features, both, unreadable, **options)
        return found.sharing(earlier)

    def knows(self, items: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the last student has scored all images, except those that still cannot be read.

        Args:
            items: all images.

        """
        scores = self._scores
        listed, scored, others = self._waiting
        if listed is not items or scored is not scores:
            changed = scores.changed(digests(items))
            others = [item for item in items if item["id"] not in scores.places or item["id"] in changed]
            self._waiting = items, scores, others
        if any(item["id"] not in scores.unreadable for item in others):
            return False
        return len(self.bundle.find_faults(others)) == len(others)

    def next(
        self, items: Sequence[Mapping[str, Any]], labels: Mapping[str, Any], *, count: int = 1
    ) -> list[Suggestion]:
        """Return the images to label next, in order; an empty list when none is left.

        This opens no image: call :py:meth:`score` first, and :py:meth:`learn` and :py:meth:`renew` after each answer.
        See :py:func:`monai_weckd.annotation.order.suggest` for the order. ``ahead`` images or more are chosen at a
        time. A new student or new images cause a new choice.

        Args:
            items: all images.
            labels: label of each labeled image by its id.
            count: how many, default 1.

        """
        scores = self._scores
        stage, guide = len(self.stages) + 1, partial(self._learning.guide, scores)
        return self._upcoming.next(scores, items, labels, count=count, stage=stage, guide=guide)

    def predictor(self) -> ImagePredictor | None:
        """Return a predictor of single images with the last accepted student, None before the first one."""
        return self.bundle.predictor(self.path / "model.pt") if self.accepted else None

    def _load(self) -> None:
        chain, given, folder = None, GivenLabels(), self.path.resolve() if self.path.exists() else self.output_dir
        if self._loaded == folder_state(folder):
            return
        if self.path.exists():
            chain = model_chain(folder / "model.pt")
            if chain is None:
                raise ValueError(f"output_dir: expected chain.json in {folder}, got none. Restore it from a copy.")
            given = read_given(folder / "given.json")
            check_chain(chain, self.output_dir, self.bundle.kind, item_level=self.bundle.item_level)
            if tuple(chain["classes"]) != self.bundle.classes:
                self._grow(folder)
                return self._load()
        self._take(folder, chain, given, Scores.load(folder, next(reversed(students_of(folder)), "")))

    def _grow(self, folder: Path) -> None:
        """Replace the chain by one whose students have all classes of the bundle."""
        part = self.output_dir / f"chain_of_{len(self.bundle.classes)}"
        grow_scored(folder, part, self.bundle)
        self._replace(part)

    def _take(self, folder: Path, chain: dict[str, Any] | None, given: GivenLabels, scores: Scores) -> None:
        # assigned together: concurrent readers see the old chain or the new one
        self._chain, self.given, self._scores = chain, given, scores
        self._loaded = folder_state(folder)

    def _replace(self, part: Path) -> None:
        """Replace the chain by a finished folder, atomically."""
        link = self.output_dir / "chain.part"
        link.unlink(missing_ok=True)
        link.symlink_to(part.name, target_is_directory=True)
        os.replace(link, self.path)
        sync_folder(self.output_dir)
