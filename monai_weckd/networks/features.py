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

"""Find a network's layers, and extract its features and logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from monai.utils import CommonKeys
from torch.nn.parallel import DataParallel, DistributedDataParallel

from monai_weckd.utils.messages import nearest

__all__ = ["FeatureHook", "HeadHook", "extract", "find_head", "origin_of", "unwrap"]


def unwrap(network: torch.nn.Module) -> torch.nn.Module:
    """Return the network inside DistributedDataParallel, DataParallel and ``torch.compile``, in any order.

    Args:
        network: any module; one without a wrapper is returned as it is.

    Example::

        >>> network = torch.nn.Linear(2, 2)
        >>> unwrap(torch.compile(network)) is network
        True

    """
    while True:
        if isinstance(network, (DistributedDataParallel, DataParallel)):
            network = network.module
        elif hasattr(network, "_orig_mod"):  # result of torch.compile; its class is private
            network = network.get_submodule("_orig_mod")
        else:
            return network


def origin_of(network: torch.nn.Module) -> dict[str, Any] | None:
    """Return where the weights of a network's backbone come from, None if none of its modules says so.

    Args:
        network: any module, also inside DistributedDataParallel or ``torch.compile``.

    Returns:
        The ``origin`` of its first module that has one: SHA-256 of its ``files`` by name; of a
        :py:class:`~monai_weckd.networks.LocalBackbone` also ``config``, ``preprocessing`` and ``options``.

    """
    found = (vars(module).get("origin") for module in unwrap(network).modules())
    return next((origin for origin in found if origin is not None), None)


class FeatureHook:
    """Keep the last output of one layer of a network.

    It is a forward hook: it patches nothing in the network, whose ``state_dict`` stays plain. The features keep the
    autograd graph of their iteration alive, so call :py:meth:`clear` after use. A deepcopy of the network contains a
    copy of the hook that records nothing, so attach a new hook to every copy.

    Attach it before the first forward pass of a network inside ``torch.compile``, which ignores later hooks.

    Args:
        network: any module, also inside DistributedDataParallel or ``torch.compile``.
        path: name of the layer as in ``network.named_modules()``, for example ``"layer4"``.

    Raises:
        ValueError: When the network has no module of this name.

    Example::

        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Flatten())
        >>> with FeatureHook(network, "0") as hook:
        ...     logits = network(torch.zeros(2, 1, 8, 8))
        ...     hook.features.shape
        torch.Size([2, 3, 6, 6])

    """

    def __init__(self, network: torch.nn.Module, path: str) -> None:
        layer = find_module(unwrap(network), path)
        self.path = path
        self._output: Any = None

        def record(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            # a deepcopy of the network shares this function, but its layer is another module: ignore it
            if module is layer:
                self._output = self._pick(inputs, output)

        self._handle = layer.register_forward_hook(record)

    def _pick(self, inputs: tuple[Any, ...], output: Any) -> Any:
        return output

    @property
    def features(self) -> torch.Tensor:
        """The layer's last output.

        Raises:
            RuntimeError: When the layer has not run since the hook was attached or cleared.
            TypeError: When the layer's output is not a tensor.

        """
        if self._output is None:
            raise RuntimeError(
                f"features: expected an output of the layer {self.path!r}, got none. "
                "Run the network first, and name a layer that takes part in its forward pass."
            )
        if not isinstance(self._output, torch.Tensor):
            raise TypeError(
                f"features: expected a tensor from the layer {self.path!r}, got {type(self._output).__name__}. "
                "Name a layer with a single output."
            )
        return self._output

    def clear(self) -> None:
        """Release the features and their autograd graph."""
        self._output = None

    def remove(self) -> None:
        """Detach from the layer and release the features."""
        self._handle.remove()
        self.clear()

    def __enter__(self) -> FeatureHook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


class HeadHook(FeatureHook):
    """Keep the last input of a network's classification head: the features of the images.

    Args:
        network: any module, also inside DistributedDataParallel or ``torch.compile``.
        path: name of the head, default None: see :py:func:`find_head`.

    Example::

        >>> layers = torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)
        >>> network = torch.nn.Sequential(*layers)
        >>> with HeadHook(network) as hook:
        ...     logits = network(torch.zeros(5, 1, 2, 2))
        ...     hook.path, hook.features.shape
        ('3', torch.Size([5, 3]))

    """

    def __init__(self, network: torch.nn.Module, path: str | None = None) -> None:
        super().__init__(network, find_head(network, path))

    def _pick(self, inputs: tuple[Any, ...], output: Any) -> Any:
        return inputs[0]


def find_head(network: torch.nn.Module, path: str | None = None) -> str:
    """Return the module path of a network's classification head.

    Args:
        network: any module, also inside DistributedDataParallel or ``torch.compile``.
        path: the path, if known; it is checked. Default None: the last ``torch.nn.Linear`` in the order of
            ``network.named_modules()``.

    Raises:
        ValueError: When the network has no module of this name, or no ``torch.nn.Linear``.

    """
    network = unwrap(network)
    if path is not None:
        find_module(network, path)
        return path
    paths = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)]
    if not paths:
        raise ValueError(
            f"head_layer: expected a torch.nn.Linear in {type(network).__name__}, got none. "
            "Pass the module path of its classification head."
        )
    return paths[-1]


def extract(
    network: torch.nn.Module,
    source: Any,
    *,
    head_layer: str | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 64,
    inferer: Callable | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features (inputs of the head) and the logits of all images of a source, in order.

    The network runs without its wrappers, in eval mode and inference mode, so no buffer changes and no random number is
    drawn. Afterwards, the mode of each of its modules is restored.

    Args:
        network: the classifier.
        source: a map-style dataset of dictionaries with ``image``, or any other iterable of batches, (B, C, spatial
            dimensions), or of dictionaries of batches. If a dataset has ``gather(indices)``, it gives whole batches
            before any random transform, as :py:class:`~monai_weckd.data.ByteCacheDataset` does.
        head_layer: module path of the head, default None: see :py:func:`find_head`.
        device: device for the computation, default None: the network's device.
        batch_size: images in a batch of a dataset, default 64.
        inferer: calls the network, ``(images, network) -> logits``, default None: call it directly.

    Returns:
        Features, (N, D), and logits, (N, C), both float32 on the CPU.

    Raises:
        ValueError: When the source is empty, or the input of the head is not of shape (B, D).

    Example::

        >>> layers = torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)
        >>> network = torch.nn.Sequential(*layers)
        >>> features, logits = extract(network, [{"image": torch.zeros(1, 2, 2)}] * 5)
        >>> features.shape, logits.shape
        (torch.Size([5, 3]), torch.Size([5, 2]))

    """
    network = unwrap(network)
    place = next(network.parameters()).device if device is None else torch.device(device)
    call = inferer or (lambda images, model: model(images))
    features, logits = [], []
    with HeadHook(network, head_layer) as hook, _evaluating(network), torch.inference_mode():
        for images in _batches(source, batch_size):
            logits.append(call(images.to(place), network).float().cpu())
            if hook.features.ndim != 2:
                raise ValueError(
                    f"head_layer: expected a layer with an input of shape (B, D), got {tuple(hook.features.shape)} at "
                    f"{hook.path!r}. Name the layer behind pooling and flattening."
                )
            features.append(hook.features.float().cpu())
            hook.clear()
    if not features:
        raise ValueError("source: expected at least one image, got none. Check the data list.")
    # concatenated outside of inference mode, so that they can be used in training
    return torch.cat(features), torch.cat(logits)


def _batches(source: Any, batch_size: int) -> Iterator[torch.Tensor]:
    if not hasattr(source, "__getitem__"):
        for batch in source:
            yield _plain(batch[CommonKeys.IMAGE] if isinstance(batch, dict) else batch)
        return
    for first in range(0, len(source), batch_size):
        yield images_of(source, range(first, min(first + batch_size, len(source))))


def images_of(dataset: Any, indices: Sequence[int]) -> torch.Tensor:
    """Return images of a dataset as one plain batch, with its ``gather`` if it has one.

    Args:
        dataset: a map-style dataset of dictionaries with ``image``.
        indices: B positions in the dataset.

    Returns:
        (B, C, spatial dimensions)

    """
    if hasattr(dataset, "gather"):
        return _plain(dataset.gather(indices))
    return torch.stack([_plain(dataset[index][CommonKeys.IMAGE]) for index in indices])


def _plain(images: Any) -> torch.Tensor:
    return torch.as_tensor(images).as_subclass(torch.Tensor)


@contextmanager
def _evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Put a network in eval mode, and restore the mode of each of its modules afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def find_module(network: torch.nn.Module, path: str) -> torch.nn.Module:
    """Return the module of a network by its name.

    Args:
        network: a module without wrappers.
        path: the name as in ``network.named_modules()``.

    Raises:
        ValueError: When there is no such module.

    """
    modules = dict(network.named_modules(remove_duplicate=False))
    if path not in modules:
        names = [name for name in modules if name]
        raise ValueError(f"path: expected a module of {type(network).__name__}, got {path!r}. {nearest(path, names)}")
    return modules[path]
