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

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

from monai_weckd.utils import nearest

__all__ = ["FeatureHook", "unwrap"]


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
        elif hasattr(network, "_orig_mod"):  # what torch.compile returns; its class is private
            network = network.get_submodule("_orig_mod")
        else:
            return network


class FeatureHook:
    """Keep the last output of one layer of a network.

    It is a forward hook: nothing in the network is patched, and what is saved of it stays a plain ``state_dict``. The
    features hold on to the graph of their iteration, so call :py:meth:`clear` once they are used. A deepcopy of the
    network takes a copy of the hook along which records nothing: every copy wants a hook of its own.

    Attach it before the first forward pass of a network inside ``torch.compile``, which does not see later hooks.

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
            # a deepcopy of the network shares this function: the copy's layer is another module, and is not ours
            if module is layer:
                self._output = output

        self._handle = layer.register_forward_hook(record)

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
        """Let go of the features, and of the graph that they hold."""
        self._output = None

    def remove(self) -> None:
        """Detach from the layer and let go of the features."""
        self._handle.remove()
        self.clear()

    def __enter__(self) -> FeatureHook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


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
