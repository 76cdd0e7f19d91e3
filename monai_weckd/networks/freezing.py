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

"""Freeze, fingerprint and page out networks, and predict with them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from monai.utils import CommonKeys

from monai_weckd.networks.features import unwrap

__all__ = ["fingerprint", "freeze", "page_out", "predict_logits", "shares_parameters"]


def freeze(network: torch.nn.Module) -> torch.nn.Module:
    """Return a teacher: a copy of ``network`` in eval mode, without gradients and without wrappers.

    Args:
        network: the network to copy, also inside DistributedDataParallel or ``torch.compile``.

    """
    return deepcopy(unwrap(network)).eval().requires_grad_(False)


def fingerprint(network: torch.nn.Module, *, without: str | None = None) -> str:
    """Return a SHA-256 digest of every parameter and buffer of a network.

    Args:
        network: any module; its tensors may be on any device and of any type.
        without: module path of a part to leave out, default None: all of it.

    """
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        if without is not None and name.startswith(f"{without}."):
            continue
        digest.update(name.encode())
        digest.update(_content(tensor))
    return digest.hexdigest()


def _content(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and not value.is_quantized:
        return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    buffer = io.BytesIO()  # a quantized layer packs its weights
    torch.save(value, buffer)
    return buffer.getvalue()


def page_out(network: torch.nn.Module, path: str | os.PathLike[str]) -> None:
    """Free the memory of a network's weights: write them to a file, map it, and read them on use.

    Args:
        network: any module; afterwards its tensors are on the CPU, mapped from the file.
        path: the file; keep it as long as the network is used.

    """
    torch.save(network.state_dict(), path)
    weights = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    network.load_state_dict(weights, assign=True)


def predict_logits(
    network: torch.nn.Module, loader: Iterable, device: torch.device, *, inferer: Callable | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits, (N, C), and labels, (N,) or for findings (N, F), of all items of a loader, in order, on the CPU.

    Args:
        network: the classifier; its train or eval mode is restored. It is called without its wrappers, because
            DistributedDataParallel would wait for the other ranks.
        loader: batches with ``image`` and ``label``.
        device: device of the network.
        inferer: calls the network, ``(images, network) -> logits``, default None: call it directly.

    """
    call = inferer or (lambda images, model: model(images))
    network = unwrap(network)
    training = network.training
    network.eval()
    logits, labels = [], []
    with torch.inference_mode():
        for batch in loader:
            logits.append(call(torch.as_tensor(batch[CommonKeys.IMAGE]).to(device), network).float().cpu())
            label = torch.as_tensor(np.asarray(batch[CommonKeys.LABEL]))
            labels.append(label if label.ndim == 2 and label.shape[1] > 1 else label.reshape(-1))
    network.train(training)
    return torch.cat(logits), torch.cat(labels)


def shares_parameters(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Return whether two networks share parameters or buffers, as objects or in memory.

    Args:
        first: any module.
        second: any other module.

    """
    return not _storages(first).isdisjoint(_storages(second))


def _storages(network: torch.nn.Module) -> set[int]:
    tensors = [*network.parameters(), *network.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel() and not tensor.is_meta}
