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

"""A frozen network's features at several depths, sizes and flips. This file needs torch alone: bundles have a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["PooledClassifier", "StandardizedLinear"]


class StandardizedLinear(nn.Linear):
    """Apply a linear layer to standardized features, bounded and normalized.

    Pooled features have long tails: without a bound, a head for a few labels depends on a few large features, and on
    the few images that have many of them. So each standardized feature goes through the hyperbolic tangent, and the
    features of an image are divided by their root mean square. This follows the use of cosine similarity of centered
    features for few labels by Wang et al., "SimpleShot", arXiv 1911.04623. :py:meth:`fit` sets mean and standard
    deviation; until then, features count as standardized.

    Args:
        in_features: number of features, D.
        out_features: number of logits, C.

    Example::

        >>> layer = StandardizedLinear(2, 3)
        >>> layer.fit(mean=torch.tensor([1.0, 5.0]), deviation=torch.tensor([2.0, 0.0]))
        >>> layer.standardize(torch.tensor([[3.0, 5.0], [-99.0, 5.0]]))  # a constant feature carries no information
        tensor([[ 1.4142,  0.0000],
                [-1.4142,  0.0000]])

    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("mean", torch.zeros(in_features))
        self.register_buffer("scale", torch.ones(in_features))  # one over the standard deviation

    def fit(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Set what the features are standardized by.

        Args:
            mean: mean of each feature, (D,).
            deviation: standard deviation of each feature, (D,).

        """
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(deviation > 0, 1 / deviation, 0))

    def standardize(self, features: torch.Tensor) -> torch.Tensor:
        """Return the input of the linear layer, (B, D); the mean square of a row is 1.

        Args:
            features: (B, D).

        """
        bounded = torch.tanh((features - self.mean) * self.scale)
        return F.normalize(bounded, dim=1) * self.in_features**0.5

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits, (B, C).

        Args:
            features: (B, D).

        """
        return super().forward(self.standardize(features))


class PooledClassifier(nn.Module):
    """Classify by the features of a network, averaged over each image and over its flips.

    The features are the global averages of the outputs of ``layers`` and the input of the network's own head, at each
    size of ``shrink``. State and export are those of a plain network; ``classifier``, a
    :py:class:`StandardizedLinear`, is the last linear layer.

    Args:
        network: the network; its head is removed.
        num_classes: number of logits.
        input_shape: shape of an image, (C, spatial dimensions), to find out how many features there are.
        layers: module paths of further layers with outputs (B, channels, spatial dimensions), default none.
        flip_average: spatial axes, from 0, along which a class may be mirrored; each subset of them is a flip, and the
            features are averaged over all 2^n. Default none.
        shrink: factors by which images are averaged down, each a further set of features. Default (1,), full size.
        head_layer: module path of the network's head, default None: its last ``torch.nn.Linear``.

    Raises:
        ValueError: When the network has no such layer, or an argument is out of its range.

    Example::

        >>> layers = torch.nn.Conv2d(1, 3, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 9)
        >>> options = {"num_classes": 2, "input_shape": (1, 8, 8), "layers": ["0"], "flip_average": [0, 1]}
        >>> network = PooledClassifier(torch.nn.Sequential(*layers), **options)
        >>> network.classifier.in_features, network(torch.zeros(5, 1, 8, 8)).shape
        (6, torch.Size([5, 2]))

    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        *,
        input_shape: Sequence[int],
        layers: Sequence[str] = (),
        flip_average: Sequence[int] = (),
        shrink: Sequence[int] = (1,),
        head_layer: str | None = None,
    ) -> None:
        super().__init__()
        _check_views(input_shape, flip_average, shrink)
        self.layers = tuple(layers)
        self.shrink = tuple(shrink)
        axes = [2 + axis for axis in flip_average]
        self.flips = tuple(flip for count in range(len(axes) + 1) for flip in combinations(axes, count))
        parent, _, name = _find(network, self.layers, head_layer).rpartition(".")
        setattr(network.get_submodule(parent), name, nn.Identity())
        self.network = network
        training = network.training
        network.eval()
        with torch.no_grad():
            width = self._features(torch.zeros(1, *input_shape)).shape[1]
        network.train(training)
        self.classifier = StandardizedLinear(width, num_classes)

    def extra_repr(self) -> str:
        """Return the options that the weights do not show."""
        return f"layers={self.layers}, flips={self.flips}, shrink={self.shrink}"

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits.

        Args:
            image: (B, C, H, W) or (B, C, H, W, D).

        Returns:
            (B, ``num_classes``).

        """
        return self.classifier(self._features(image))

    def _features(self, image: torch.Tensor) -> torch.Tensor:
        """Return the features, (B, D)."""
        views = [torch.stack(list(self._views(self._smaller(image, factor)))).mean(0) for factor in self.shrink]
        return torch.cat(views, dim=1)

    def _smaller(self, image: torch.Tensor, factor: int) -> torch.Tensor:
        if factor == 1:
            return image
        return F.avg_pool2d(image, factor) if image.dim() == 4 else F.avg_pool3d(image, factor)

    def _views(self, image: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the features of each flip, (B, D)."""
        for flip in self.flips:
            pooled: list[torch.Tensor] = []

            def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
                if not isinstance(output, torch.Tensor) or output.ndim != image.ndim:
                    raise ValueError(
                        f"layers: expected outputs (B, channels, spatial dimensions), got others from "
                        f"{type(module).__name__}. Name other layers; tokens have no channels first."
                    )
                pooled.append(output.flatten(2).mean(2))  # noqa: B023  # the hook is gone before the next flip

            # removed at once, because a copy of the network would share hooks that stay
            hooks = [self.network.get_submodule(path).register_forward_hook(keep) for path in self.layers]
            last = self.network(torch.flip(image, flip) if flip else image)
            for hook in hooks:
                hook.remove()
            yield torch.cat([*pooled, last], dim=1)


def _check_views(input_shape: Sequence[int], flip_average: Sequence[int], shrink: Sequence[int]) -> None:
    spatial = len(input_shape) - 1
    if spatial not in (2, 3):
        raise ValueError(
            f"input_shape: expected (C, H, W) or (C, H, W, D), got {tuple(input_shape)}. Pass the shape of an image."
        )
    if not shrink or min(shrink) < 1:
        raise ValueError(f"shrink: expected factors from 1 up, got {tuple(shrink)}. Pass (1,) for full size.")
    if any(axis not in range(spatial) for axis in flip_average):
        raise ValueError(
            f"flip_average: expected axes from 0 to {spatial - 1}, got {tuple(flip_average)}. Pass [] for no flip."
        )


def _find(network: nn.Module, layers: Sequence[str], head_layer: str | None) -> str:
    """Return the path of a network's head; raise a ValueError if the network lacks it or one of the layers."""
    modules, kind = dict(network.named_modules()), type(network).__name__
    heads = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    if head_layer is None and not heads:
        raise ValueError(f"head_layer: expected a torch.nn.Linear in {kind}, got none. Name the head.")
    head = heads[-1] if head_layer is None else head_layer
    for option, path in (("head_layer", head), *(("layers", path) for path in layers)):
        if path not in modules:
            raise ValueError(
                f"{option}: expected a module of {kind}, got {path!r}. Pass a name of network.named_modules()."
            )
    return head
