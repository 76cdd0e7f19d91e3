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

"""Distillation steps of other libraries, for comparison."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import logging
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

__all__ = ["model_optimizer_step", "torchdistill_step"]

FOLDER = Path(__file__).resolve().parents[1] / ".bench"
_ABSENT = ("torchvision", "huggingface_hub")


class _Stub(types.ModuleType):
    __path__: ClassVar[list[str]] = []
    __version__ = "0.0"

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (torch.nn.Module,), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Replace modules that the rivals import but do not use here: torchvision has no build beside a CPU-only torch."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] not in _ABSENT:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: there is no code."""


def _prepare() -> None:
    if not FOLDER.is_dir():
        raise ImportError("rivals: expected torchdistill and Model Optimizer in .bench, got nothing. Run make bench.")
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
        sys.meta_path.insert(0, _Finder())
        for name in ("datasets", "transforms", "models", "ops"):
            importlib.import_module(f"torchvision.{name}")
    warnings.simplefilter("ignore")


def torchdistill_step(
    student: torch.nn.Module, teacher: torch.nn.Module, *, temperature: float, learning_rate: float
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return torchdistill's distillation step: half cross entropy, half softened divergence.

    Args:
        student: the network to train, by SGD.
        teacher: the frozen network, in eval mode.
        temperature: of the softmax.
        learning_rate: of SGD.

    """
    _prepare()
    from torchdistill.core.distillation import DistillationBox

    logging.getLogger("torchdistill").setLevel(logging.ERROR)
    whole = {"student_module_path": ".", "student_module_io": "output"}
    whole |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    term = {"key": "KDLoss", "kwargs": {**whole, "temperature": temperature, "alpha": 0.5, "reduction": "batchmean"}}
    config = {
        "num_epochs": 1,
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": {"lr": learning_rate}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": term, "weight": 1.0}}}},
    }
    box = DistillationBox(teacher, student, {}, config, torch.device("cpu"), None, False, 1.0)
    box.student_model.train()
    box.teacher_model.eval()

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        box.optimizer.zero_grad()
        loss = box.forward_process(images, labels, None)
        box.post_forward_process(loss)
        return loss.detach()

    return step


def model_optimizer_step(
    student: torch.nn.Module, teacher: torch.nn.Module, *, temperature: float, learning_rate: float
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the distillation step of NVIDIA Model Optimizer, with the arguments of :py:func:`torchdistill_step`."""
    _prepare()
    import modelopt.torch.distill as distill

    settings = {
        "teacher_model": teacher,
        "criterion": distill.LogitsDistillationLoss(temperature=temperature, reduction="batchmean"),
        "loss_balancer": distill.StaticLossBalancer(kd_loss_weight=0.5),
    }
    model = distill.convert(student, mode=[("kd_loss", settings)])
    model.train()
    parameters: Sequence[torch.nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=learning_rate)

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        logits = model(images)
        loss = model.compute_kd_loss(student_loss=torch.nn.functional.cross_entropy(logits, labels))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
