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

"""Small trainings by MONAI's own trainer, which handlers make a chain or distill."""

from __future__ import annotations

import torch
from chain_runs import make_evaluator, make_network
from monai.data import Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import ValidationHandler
from torch.utils.data import DataLoader

from monai_weckd import plan_training
from monai_weckd.handlers import ChainHandler

CLASSES = ("a", "b", "c")


def make_items(count=48):
    generator = torch.Generator().manual_seed(0)
    return [
        {"id": f"i{i}", "image": torch.randn(3, 8, 8, generator=generator) + i % 3, "label": i % 3}
        for i in range(count)
    ]


def build(dataset=None, *, loader=None, handlers=(), evaluator=True, max_epochs=4, epoch_length=2, chain=None, **more):
    dataset = dataset or Dataset(make_items())
    network = make_network()
    validate = make_evaluator(network, make_items(12)) if evaluator is True else evaluator
    plan = plan_training(
        (loader.dataset if loader else dataset).data, classes=CLASSES, label_fraction=0.25, num_stages=2
    )
    return SupervisedTrainer(
        "cpu",
        max_epochs=max_epochs,
        epoch_length=epoch_length,
        network=network,
        train_data_loader=loader or DataLoader(dataset, batch_size=8, shuffle=True),
        optimizer=torch.optim.Adam(network.parameters(), 1e-2),
        loss_function=torch.nn.CrossEntropyLoss(),
        train_handlers=[
            ValidationHandler(1, validate),
            ChainHandler(plan, evaluator=validate, accept="always", **(chain or {})),
            *handlers,
        ],
        **more,
    )


TABLE = {item["id"]: item["label"] for item in make_items()}


def distilling(student, handler):
    return SupervisedTrainer(
        "cpu",
        max_epochs=1,
        network=student,
        train_data_loader=DataLoader(Dataset(make_items()), batch_size=8),
        optimizer=torch.optim.SGD(student.parameters(), 0.1),
        loss_function=torch.nn.CrossEntropyLoss(),
        train_handlers=[handler],
    )
