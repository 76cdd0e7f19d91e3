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


"""The MONAI Label app. MONAI Label requires a direct subclass of ``MONAILabelApp`` in a file of this name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from monai_weckd import __version__
from monai_weckd.annotation import AnnotationSession
from monai_weckd.apps.label.datastore import FolderDatastore, is_tag
from monai_weckd.apps.label.guard import person
from monai_weckd.apps.label.tasks import ChainBatch, ChainInfer, ChainOrder, ChainScoring, ChainTrain
from monai_weckd.utils.records import check_plain

__all__ = ["ChainLabelApp"]

NAME = "chain"
_PREDICTED = DefaultLabelTag.ORIGINAL.value


class ChainLabelApp(MONAILabelApp):
    """A MONAI Label app for a labeling session; its only model, trainer and strategy is called "chain".

    Args:
        app_dir: folder of this file.
        studies: folder of the images.
        conf: with the :py:class:`monai_weckd.annotation.AnnotationSession` under ``session``.

    Attributes:
        uploads: folder for uploaded files until their request is answered.

    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, Any]) -> None:
        self.session: AnnotationSession = conf["session"]
        # a hidden folder, since the output folder may be inside the folder of the images
        self.uploads = self.session.chain.output_dir.absolute() / ".uploads"
        shutil.rmtree(self.uploads, ignore_errors=True)  # a killed server may have left files
        self.uploads.mkdir(exist_ok=True)
        super().__init__(
            app_dir,
            studies,
            {},
            name=f"{self.session.chain.bundle.root.name} by monai_weckd",
            description="image-level classes, learned by a chain from few labels",
            version=__version__,
            labels=list(self.session.classes),
        )

    def init_datastore(self) -> Datastore:
        """Return the session's images and labels."""
        return FolderDatastore(self.session)

    def init_infers(self) -> dict[str, InferTask]:
        """Return the classifier."""
        return {NAME: ChainInfer(self.session)}

    def init_trainers(self) -> dict[str, TrainTask]:
        """Return the task that adds a stage."""
        return {NAME: ChainTrain(self.session)}

    def init_strategies(self) -> dict[str, Strategy]:
        """Return the strategy that chooses the next image."""
        return {NAME: ChainOrder(self.session)}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Return the method that scores new images."""
        return {NAME: ChainScoring(self.session)}

    def init_batch_infer(self) -> Callable:
        """Return the task that classifies many images."""
        return ChainBatch()

    def on_init_complete(self) -> None:
        """Score the images in the background. There are no MONAI Label sessions to clean up."""
        self.session.look()

    def info(self) -> dict[str, Any]:
        """Return MONAI Label's description of the app, and the state of the session as ``chain``."""
        self.labels = list(self.session.classes)  # of which people may have added some
        return {**super().info(), "chain": self.session.state(who=person().name)}

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Classify an image of the folder by its id, or an uploaded image.

        Args:
            request: with ``model`` and ``image``.
            datastore: default None: the app's.

        """
        self.check("infer", request)
        image = request["image"]
        if image in self.session.items:
            return self._infer(request, *self.session.images(image))
        # only uploads: a request must not name any other path of the server
        upload = Path(str(image))
        if upload.parent != self.uploads or not upload.is_file():
            self.session.item(image)
        return self._infer({**request, "save_label": False}, str(upload))

    def _infer(self, request: dict[str, Any], *paths: str) -> dict[str, Any]:
        tag = request.get("label_tag", _PREDICTED)[:]  # as text: MONAI Label passes an Enum
        file, result = self._infers[NAME]({**request, "image": paths})
        if file is not None:
            try:
                self.datastore().save_label(request["image"], file, tag, {})
            except Exception:  # a wrong tag, a full disk
                Path(file).unlink()
                raise
        label = None if file is None else request["image"]
        return {"label": label, "tag": tag, "file": file, "params": result}

    def sessions(self) -> Any:
        """Refuse: MONAI Label's sessions are permanent uploads, which this app does not support."""
        raise ValueError("session_id: expected none, got one. Upload the image as file.")

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the next image and the reason for it; empty when none is left.

        Args:
            request: with ``strategy``.

        """
        self.check("activelearning", request)
        return self._strategies[NAME](request, self.datastore()) or {}

    def check(self, method: str, request: dict[str, Any]) -> None:
        """Check a request before its task starts; for training, reserve the stage.

        Args:
            method: "infer", "batch_infer", "train", "scoring" or "activelearning".
            request: the request.

        Raises:
            MONAILabelException: When the request names anything other than "chain".
            ValueError: When there are too few labels for a stage, or the request is not plain JSON.
            StageRunningError: When a stage is in training.

        """
        key = {"scoring": "method", "activelearning": "strategy"}.get(method, "model")
        if request.get(key) != NAME:
            message = f"{key}: expected {NAME!r}, got {request.get(key)!r}. There is no other."
            raise MONAILabelException(MONAILabelError.INVALID_INPUT, message)
        check_plain(request, where="params")
        tag = request.get("label_tag", _PREDICTED)
        if method in ("infer", "batch_infer") and (tag == DefaultLabelTag.FINAL or not is_tag(tag)):
            raise ValueError(
                f"label_tag: expected a word for predictions such as {_PREDICTED!r}, got {str(tag)[:80]!r}. "
                "Pass another; only a person gives a final label."
            )
        if method == "train":
            self.session.reserve(who=person().name)

    def stop(self, method: str) -> None:
        """Stop the running stage at the end of its epoch.

        Args:
            method: "train".

        Raises:
            ValueError: When it is another method, or no stage is in training.

        """
        if method != "train":
            raise ValueError(f"{method}: expected to run to its end, got a stop. Only a training can be stopped.")
        self.session.stop()
