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

"""Project features onto their main directions."""

from __future__ import annotations

import numpy as np

__all__ = ["embed", "main_components"]

# more directions did not choose better labels on the development sets, and 32 keep 100,000 items in 13 MB
DIMENSIONS = 32
OVERSAMPLING, ITERATIONS = 16, 4
COMPONENTS = 64
MOST_ROWS = 4096  # more would not move the components visibly
CHUNK = 1 << 21  # numbers standardized at a time: 16 MB in double precision


def embed(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale features to unit length, center them, and project them onto the directions of largest variance.

    Distances between them are what k-means and k-means++ see: the length of a feature vector says more about an image's
    contrast than about its content, and a few directions hold most of what differs. The directions come from randomized
    subspace iteration (Halko, Martinsson and Tropp, SIAM Review 2011, algorithm 4.4), which multiplies the features
    with tall thin matrices and so never copies them.

    Args:
        features: finite features, (N, D); a row of zeros stays one.
        rng: source of the directions that the iteration begins with.

    Returns:
        Embeddings, (N, min(D, 32)), in the type of the features; distances are exact if D is at most 32.

    """
    length = np.sqrt(np.einsum("ij,ij->i", features, features))
    scale = 1 / np.where(length > 0, length, 1)[:, None]
    mean = (features.T @ scale)[:, 0] / len(features)
    kept = min(features.shape[1], DIMENSIONS)
    basis = rng.standard_normal((features.shape[1], min(features.shape[1], kept + OVERSAMPLING)))
    for _ in range(ITERATIONS):
        basis = np.linalg.qr(basis)[0].astype(features.dtype)
        image = (features @ basis) * scale - mean @ basis
        basis = features.T @ (image * scale) - np.outer(mean, image.sum(axis=0))
    basis = np.linalg.qr(basis)[0].astype(features.dtype)
    image = (features @ basis) * scale - mean @ basis
    # the largest directions found, which no longer depend on the start of the iteration
    return image @ np.linalg.eigh(image.T @ image)[1][:, ::-1][:, :kept]


def main_components(features: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Standardize features, project them onto their principal components, and scale the result to unit length.

    Each feature is divided by its standard deviation, since features pooled at several depths differ in scale. The
    result does not depend on the scales of the features, and the seed does not change it.

    Args:
        features: finite features, (N, D); a feature that is constant over the references is ignored.
        references: indices of the items that means, deviations and components are computed from, (R,); of more than
            4,096, an evenly spaced part is used.

    Returns:
        Unit vectors, (N, min(D, 64)), in single precision; an item without any component stays at 0.

    """
    some = features[references[:: -(-len(references) // MOST_ROWS)]].astype(np.float64)
    mean, deviation = some.mean(axis=0), some.std(axis=0)
    # rounding may give equal numbers a tiny deviation, which must count as 0
    scale = np.where(np.ptp(some, axis=0) > 0, 1 / np.where(deviation > 0, deviation, 1), 0)
    some = ((some - mean) * scale).astype(np.float32)
    kept = min(features.shape[1], COMPONENTS)
    width = min(features.shape[1], kept + OVERSAMPLING)
    axes = np.random.default_rng(0).standard_normal((features.shape[1], width), dtype=np.float32)
    for _ in range(ITERATIONS):
        axes = some.T @ (some @ np.linalg.qr(axes)[0])
    axes = np.linalg.qr(axes)[0]
    image = some @ axes
    axes = axes @ np.linalg.eigh(image.T @ image)[1][:, ::-1][:, :kept]
    step = max(1, CHUNK // features.shape[1])
    points = np.empty((len(features), kept), dtype=np.float32)
    for start in range(0, len(features), step):
        part = features[start : start + step]
        points[start : start + step] = ((part - mean) * scale).astype(np.float32) @ axes
    length = np.sqrt(np.einsum("ij,ij->i", points, points))
    return points / np.where(length > 0, length, 1)[:, None]
