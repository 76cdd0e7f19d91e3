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

"""The tasks that MONAI Label runs on a session: inference, training, scoring and the choice of the next image."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from monai_weckd.annotation import AnnotationSession
from monai_weckd.apps.label.compat import CheckedRequest
from monai_weckd.apps.label.guard import person

__all__ = ["ChainBatch", "ChainInfer", "ChainOrder", "ChainScoring", "ChainTrain"]


class ChainInfer(InferTask):
    """Classify an image with the last accepted student.

    Args:
        session: images and chain.

    """

    def __init__(self, session: AnnotationSession) -> None:
        super().__init__(
            type=InferType.CLASSIFICATION,
            labels={},
            dimension=session.chain.bundle.spatial_dims,
            description=f"the last accepted student of {session.chain.bundle.root.name}",
        )
        self.session = session

    def info(self) -> dict[str, Any]:
        """Return MONAI Label's description of the model, with the indices of the classes that there are now."""
        return {**super().info(), "labels": {name: index for index, name in enumerate(self.session.classes)}}

    def is_valid(self) -> bool:
        """Return True: the task is always listed, since the first stage will bring a student."""
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Return the path of a JSON file if the prediction is to be saved (else None), and the prediction.

        Args:
            request: with ``image``, the paths of the images of an item, or of one image.

        """
        result = self.session.predict(*request["image"])
        if not request.get("save_label"):
            return None, result
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False, encoding="utf-8") as file:
            json.dump(result, file)
        return file.name, result


class ChainBatch(BatchInferTask):
    """Classify many images and save each prediction; an unreadable image is reported with its error."""

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: Callable) -> dict[str, Any]:
        """Return the answer of ``infer`` for each image, or its error.

        Args:
            request: with ``images``: "all", "labeled" or "unlabeled".
            datastore: the images.
            infer: function that classifies one image.

        """
        answers: dict[str, Any] = {}
        for image_id in self.get_images(request, datastore):
            try:
                answer = infer({**request, "image": image_id, "save_label": True}, datastore)
                Path(answer.pop("file")).unlink()
                answers[image_id] = answer
            except ValueError as error:
                answers[image_id] = {"error": " ".join(str(error).split())}
        return answers


class ChainTrain(TrainTask):
    """Add a stage to the chain.

    Args:
        session: images and chain.

    """

    def __init__(self, session: AnnotationSession) -> None:
        super().__init__("add a stage on the labels that have come since the last one")
        self.session = session

    def stats(self) -> dict[str, Any]:
        """Return the summaries of all stages."""
        return {"stages": self.session.state()["stages"]}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train the stage, and return its record.

        Args:
            request: the request; it contains no settings, which are the server's.
            datastore: the images.

        """
        return self.session.train(reserved=isinstance(request, CheckedRequest))


class ChainScoring(ScoringMethod):
    """Score the images that the last student has not seen.

    Args:
        session: images and chain.

    """

    def __init__(self, session: AnnotationSession) -> None:
        super().__init__("examine new images, so that they can be ordered")
        self.session = session

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score the images, and return the unreadable ones.

        Args:
            request: not used.
            datastore: the images.

        """
        self.session.chain.score(list(self.session.items.values()))
        return {"unreadable": self.session.chain.unreadable}


class ChainOrder(Strategy):
    """Choose the image to label next, and give a reason.

    Args:
        session: images and chain.

    """

    def __init__(self, session: AnnotationSession) -> None:
        super().__init__("typical images before there is a student, then uncertain ones that differ from labeled ones")
        self.session = session

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return ``id`` and ``reason``, None when no image is left.

        Args:
            request: not used.
            datastore: the images.

        """
        suggestions = self.session.next(who=person().name)
        return {"id": suggestions[0].id, "reason": suggestions[0].reason} if suggestions else None
