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

import torch

from monai_weckd.engines import DistillationTrainer
from monai_weckd.losses import DistillationLoss


def make_network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    )


def make_batches(count=4, size=6):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randn(size, 3, 8, 8, generator=generator),
            "label": torch.randint(0, 3, (size,), generator=generator),
        }
        for _ in range(count)
    ]


def make_trainer(kind=DistillationTrainer, *, network=None, loss_function=None, max_epochs=2, **options):
    network = network or make_network()
    loss_function = loss_function or DistillationLoss(weight=0.3, temperature=2.0)
    return kind(
        "cpu",
        max_epochs,
        train_data_loader=make_batches(),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=loss_function,
        **options,
    )
