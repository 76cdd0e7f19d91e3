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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from monai_weckd.data.embedding import pooled
from monai_weckd.data.image_files import list_images
from monai_weckd.predict.kind import KindReference
from monai_weckd.predict.model import PredictionBundle, probability_fault
from monai_weckd.utils.system import available_processors

__all__ = ["Prediction", "list_images", "predict_images", "predict_items"]


class Prediction(NamedTuple):
    """A model's prediction for an image, or for an item of several, or the reason why there is none.

    Args:
        path: the file, or folder of a DICOM series; or the name of the item.
        probabilities: one for each class, None without a usable prediction.
        fault: why there is none, or why an image of the item is left out, in one line.
        distance: how far the image is from the training images, None if unknown.
        images: number of images, also of those that cannot be read.
        bad: number of those that cannot be read.

    """

    path: str
    probabilities: np.ndarray | None
    fault: str = ""
    distance: float | None = None
    images: int = 1
    bad: int = 0


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
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    for images in _read_ahead(bundle, batches, batch_size):
        yield _predict(bundle, images, kind)


def predict_items(
    bundle: PredictionBundle, items: Mapping[str, Sequence[str]], *, batch_size: int, kind: KindReference | None = None
) -> Iterator[Sequence[Prediction]]:
    """Yield the prediction for each item of several images, from the mean of their features, in order.

    Images that cannot be read are left out of the mean. A batch holds images of one item only, so that a prediction
    does not depend on the other items.

    Args:
        bundle: the model.
        items: paths of the images of each item, by its name.
        batch_size: most images in a batch.
        kind: see :py:func:`predict_images`.

    """
    parts = [
        (name, paths[start : start + batch_size])
        for name, paths in items.items()
        for start in range(0, len(paths), batch_size)
    ]
    images = _read_ahead(bundle, [paths for _, paths in parts], batch_size)
    for name, batches in groupby(zip(parts, images, strict=True), key=lambda pair: pair[0][0]):
        yield [_predict_item(bundle, name, (batch for _, batch in batches), kind)]


def _read_ahead(
    bundle: PredictionBundle, batches: Sequence[Sequence[str]], batch_size: int
) -> Iterator[Sequence[_Image]]:
    """Yield the images of each batch, of at most ``batch_size``; threads read the next ones."""
    ahead: deque[Future[_Image]] = deque()
    todo = (path for batch in batches for path in batch)
    pool = ThreadPoolExecutor(max_workers=available_processors())
    try:
        for batch in batches:
            for path in todo:
                ahead.append(pool.submit(_load, bundle, path))
                if len(ahead) == 2 * batch_size:
                    break
            yield [ahead.popleft().result() for _ in batch]
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


def _predict_item(
    bundle: PredictionBundle, name: str, batches: Iterable[Sequence[_Image]], kind: KindReference | None
) -> Prediction:
    """Return the prediction for an item, from the features of its images that can be read."""
    found: list[torch.Tensor] = []
    faults: list[str] = []
    count = 0
    for batch in batches:
        count += len(batch)
        faults += [image.fault for image in batch if image.tensor is None]
        tensors = [image.tensor for image in batch if image.tensor is not None]
        found += [bundle.predict_features(part)[1] for part in _stacked(tensors)]
    if not found:
        return Prediction(name, None, f"no image can be read, first {faults[0]}", images=count, bad=len(faults))
    rows = torch.cat(found).numpy()
    features = torch.from_numpy(pooled(rows, np.arange(len(rows)), [len(rows)]))
    distance = None if kind is None else float(kind.distances(features)[0])
    told = _checked(name, bundle.classify(features)[0], distance)
    return told._replace(fault=told.fault or next(iter(faults), ""), images=count, bad=len(faults))


def _stacked(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return batches of one shape each; there is one if the bundle resizes all images."""
    same_shape: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
    for tensor in tensors:
        same_shape[tensor.shape].append(tensor)
    return list(map(torch.stack, same_shape.values()))


def _checked(path: str, probabilities: np.ndarray, distance: float | None) -> Prediction:
    fault = probability_fault(path, probabilities)
    return Prediction(path, None, fault) if fault else Prediction(path, probabilities, distance=distance)
