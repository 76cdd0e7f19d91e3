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

"""The training of stages in a labeling session: one at a time, with progress, stopped on request."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

from monai_weckd.annotation.chain import AnnotatedChain
from monai_weckd.annotation.growth import computing_waits
from monai_weckd.annotation.shards import plan_next_stage
from monai_weckd.annotation.status import StageRunningError, StageStoppedError, TrainingStatus
from monai_weckd.annotation.store import LabelStore

__all__ = ["StageTraining"]

logger = logging.getLogger(__name__)


class StageTraining(ABC):
    """The part of a session that trains stages.

    Args:
        chain: the chain.
        store: the labels.

    """

    def __init__(self, chain: AnnotatedChain, store: LabelStore) -> None:
        self.chain, self.store = chain, store
        self.training = TrainingStatus()
        self._reserving = threading.Lock()
        self._stop = threading.Event()

    @property
    @abstractmethod
    def labels(self) -> dict[str, str]:
        """Label of each labeled image, in the order in which the labels were given."""

    @property
    @abstractmethod
    def shares(self) -> dict[str, dict[str, float]]:
        """Share of each class, by id of the images that train with what each of their readers says."""

    @property
    @abstractmethod
    def _usable(self) -> list[dict[str, Any]]:
        """The images that nobody has set aside."""

    @abstractmethod
    def learn(self) -> None:
        """Solve the head for the labels so far, in the background."""

    @abstractmethod
    def _student_changed(self) -> None:
        """Load what the new student is needed for, while nothing else is being computed."""

    def check_training(self) -> None:
        """Check that a stage can be trained, before it starts.

        Raises:
            StageRunningError: When a stage is in training.
            ValueError: When there are too few labels.

        """
        self._refuse_running()
        chain = self.chain
        plan_next_stage(
            self._usable,
            self.labels,
            chain.given,
            words=self.store.words,
            policy=chain.bundle.policy,
            val_fraction=chain.val_fraction,
            seed=chain.bundle.seed,
        )

    def _refuse_running(self) -> None:
        if self.training.running:
            raise StageRunningError(
                f"stage: expected none in training, got stage {self.training.stage}. Wait until it is done."
            )

    def add_class(self, name: str, *, who: str | None = None, sure: bool = False) -> tuple[str, bool]:
        """Add a class or finding, which comes last; labels stay, and the heads of the students get one more output.

        Args:
            name: its name.
            who: the person, default None: unknown.
            sure: whether a name that is nearly one that exists is meant, default False.

        Returns:
            The name as it is spelled, and whether it is new.

        Raises:
            StageRunningError: When a stage is in training.
            ValueError: When it is no name, or nearly one that exists, or the head of the students cannot grow.

        """
        with self._reserving:
            words = self.store.words
            name = words.new_name(name, sure=sure)
            if name in words.kind.names:
                return name, False
            self._refuse_running()
            chain = self.chain
            chain.bundle.check_growth()
            with computing_waits(chain.output_dir) if chain.stages else nullcontext():
                self.store.add_name(name, who=who)  # from here on, a restart knows it, too
                self.chain = chain.again()
            # no label has the new class before the chain knows it
            self.store.words = replace(words, kind=self.chain.bundle.kind)
        self._student_changed()
        self.learn()
        return name, True

    def reserve(self, *, who: str | None = None) -> None:
        """Mark a stage as running before :py:meth:`train` starts in another thread.

        The caller can then answer a request at once, and a second request is refused.

        Args:
            who: the person who wants it, default None: unknown.

        Raises:
            StageRunningError: When a stage is in training.
            ValueError: When there are too few labels.

        """
        with self._reserving:
            self.check_training()
            stage = len(self.chain.stages) + 1
            self.store.note("training", who=who, stage=stage, labels=len(self.labels))
            self._stop.clear()
            self.training = TrainingStatus(running=True, stage=stage)

    def train(self, *, reserved: bool = False) -> dict[str, Any]:
        """Train a stage on the new labels, and wait for it; ``training`` shows the progress.

        Args:
            reserved: whether :py:meth:`reserve` was called, default False.

        Returns:
            The record of the stage.

        Raises:
            StageRunningError: When a stage is in training.
            StageStoppedError: When :py:meth:`stop` was called.
            ValueError: When there are too few labels.

        """
        if not reserved:
            self.reserve()
        outcome: dict[str, Any] = {}
        try:
            done = self.chain.append_stage(self._usable, self.labels, progress=self._progress, shares=self.shares)
            outcome["accepted"] = done.get("accepted")
            self._student_changed()
            return done
        except Exception as failure:
            outcome["error"] = " ".join(str(failure).split()) or type(failure).__name__
            raise
        finally:
            ended = {**asdict(self.training), "running": False, "error": outcome.get("error")}
            self.training = TrainingStatus(**ended)
            self._note_end(self.training.stage, outcome)
            self.learn()

    def _note_end(self, stage: int, outcome: dict[str, Any]) -> None:
        try:
            self.store.note("trained", stage=stage, **outcome)
        except OSError as error:  # the stage is what it is
            logger.warning("%s", error)

    def stop(self) -> None:
        """Stop the running stage at the end of its epoch and discard it; its labels count as new again.

        Raises:
            ValueError: When no stage is in training.

        """
        if not self.training.running:
            raise ValueError("stage: expected one in training, got none. There is nothing to stop.")
        self._stop.set()

    def _progress(self, stage: int, epoch: int, epochs: int) -> None:
        if self._stop.is_set():
            raise StageStoppedError(
                f"stage: stopped after epoch {epoch} of {epochs}. Its labels wait for the next training."
            )
        self.training = TrainingStatus(running=True, stage=stage, epoch=epoch, epochs=epochs)
