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

"""Refuse features with which attention transfer would teach nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["check_features"]


def check_features(features: torch.Tensor, images: torch.Tensor, path: str) -> None:
    """Refuse features with which attention transfer would teach nothing, or along the wrong axis.

    Args:
        features: the student's features, (B, C, spatial dimensions).
        images: the images that they come from, (B, C, spatial dimensions).
        path: module path of the features.

    Raises:
        ValueError: When they are not a feature map, no gradient passes through them, or their channels come last.

    """
    if features.ndim not in (4, 5):
        raise ValueError(
            f"student_layer: expected features (B, C, spatial dimensions), got {tuple(features.shape)} from {path!r}. "
            "Name a convolutional layer, or pass attention_weight=0."
        )
    if features.shape[2:].numel() == 1:
        raise ValueError(
            f"student_layer: expected features of several positions, got {tuple(features.shape)} from {path!r}, whose "
            "attention is always the same. Name a layer before the pooling, or pass attention_weight=0."
        )
    if torch.is_grad_enabled() and not features.requires_grad:
        raise ValueError(
            f"student_layer: expected features that the student learns from, got {path!r}, which takes no gradient. "
            "Name a layer that trains; checkpoint it with use_reentrant=False, or not at all."
        )
    size = images.shape[2:]
    if features.ndim != images.ndim or not size:
        return
    # a network has about the same stride along all axes of the image
    if 1.05 * _skew(features.shape[1:-1], size) < _skew(features.shape[2:], size):
        raise ValueError(
            f"student_layer: expected features (B, C, spatial dimensions), got {tuple(features.shape)} from {path!r}, "
            "whose channels come last. Name a layer whose channels come first, or pass attention_weight=0."
        )


def _skew(size: Sequence[int], image: Sequence[int]) -> float:
    """Return the largest stride of features over their smallest."""
    strides = [whole / part for whole, part in zip(image, size, strict=True)]
    return max(strides) / min(strides)
