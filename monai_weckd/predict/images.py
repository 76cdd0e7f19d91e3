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

"""Predict images batch by batch while threads load the next ones."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from monai_weckd.data.image_files import list_images
from monai_weckd.predict.kind import KindReference
from monai_weckd.predict.model import PredictionBundle, probability_fault
from monai_weckd.utils.system import available_processors

__all__ = ["Prediction", "list_images", "predict_images"]


class Prediction(NamedTuple):
    """A model's prediction for an image, or the reason why there is none.

    Args:
        path: the file, or folder of a DICOM series.
        probabilities: one for each class, None without a usable prediction.
        fault: why there is none, in one line.
        distance: how far the image is from the training images, None if unknown.

    """

    path: str
    probabilities: np.ndarray | None
    fault: str = ""
    distance: float | None = None


class _Image(NamedTuple):
    path: str
    tensor: torch.Tensor | None
    fault: str = ""


def predict_images(
    bundle: PredictionBundle, paths: Sequence[str], *, batch_size: int, kind: KindReference | None = None
) -> Iterator[Sequence[Prediction]]:
    """Yield the predictions for images, batch by batch, in order.

    Threads read at most two batches ahead, which bounds memory for any number of images.

    Args:
        bundle: the model.
        paths: the images.
        batch_size: images in a batch.
        kind: measures how far an image is from the training images, default None: this is not measured.

    """
    ahead: deque[Future[_Image]] = deque()
    todo = iter(paths)
    pool = ThreadPoolExecutor(max_workers=available_processors())
    try:
        for start in range(0, len(paths), batch_size):
            for path in todo:
                ahead.append(pool.submit(_load, bundle, path))
                if len(ahead) == 2 * batch_size:
                    break
            size = min(batch_size, len(paths) - start)
            yield _predict(bundle, [ahead.popleft().result() for _ in range(size)], kind)
    finally:
        pool.shutdown(cancel_futures=True)


def _load(bundle: PredictionBundle, path: str) -> _Image:
    try:
        return _Image(path, bundle.load(path))
    except ValueError as error:  # the table reports it
        return _Image(path, None, str(error))


def _predict(bundle: PredictionBundle, images: Iterable[_Image], kind: KindReference | None = None) -> list[Prediction]:
    found: dict[str, Prediction] = {}
    same_shape: dict[torch.Size, dict[str, torch.Tensor]] = defaultdict(dict)
    for path, tensor, fault in images:
        found[path] = Prediction(path, None, fault)
        if tensor is not None:
            same_shape[tensor.shape][path] = tensor
    for tensors in same_shape.values():  # there is one shape if the bundle resizes all images
        rows, features = bundle.predict_features(torch.stack(list(tensors.values())))
        distances = [None] * len(rows) if kind is None else kind.distances(features).tolist()
        for path, row, distance in zip(tensors, rows, distances, strict=True):
            found[path] = _checked(path, row, distance)
    return list(found.values())


def _checked(path: str, probabilities: np.ndarray, distance: float | None) -> Prediction:
    fault = probability_fault(path, probabilities)
    return Prediction(path, None, fault) if fault else Prediction(path, probabilities, distance=distance)
