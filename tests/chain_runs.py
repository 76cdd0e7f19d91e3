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
from held_out import held_out
from ignite.metrics import Accuracy
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import LrScheduleHandler, ValidationHandler, from_engine
from monai.transforms import Compose, RandGaussianNoised
from torch.utils.data import DataLoader

from monai_weckd import plan_chain
from monai_weckd.engines import ChainDistillationTrainer, ChainOptions
from monai_weckd.losses import DistillationLoss
from monai_weckd.utils.options import option_names


def make_items(groups=60, per_group=2, classes=3, seed=0):
    """Return noisy images whose brightest channel is the class, several to a group."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for group in range(groups):
        for index in range(per_group):
            label = group % classes
            image = torch.randn(3, 8, 8, generator=generator)
            image[label] += 1.0
            items.append({"image": image, "label": label, "group": f"g{group}", "id": f"g{group}_{index}"})
    return items


def make_network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(8, 3),
    )


def assert_same_weights(found, expected):
    """Check that two networks came to the same weights on two ways, which round differently on some processors."""
    torch.testing.assert_close(dict(found.state_dict()), dict(expected.state_dict()), rtol=1e-4, atol=1e-5)


def make_evaluator(network, items):
    loader = DataLoader(Dataset(items), batch_size=16)
    metric = {"val_accuracy": Accuracy(output_transform=from_engine(["pred", "label"]))}
    return SupervisedEvaluator("cpu", loader, network, key_val_metric=metric, decollate=False)


def make_chain(
    *,
    items=None,
    plan=None,
    network=None,
    max_epochs=6,
    batch_size=8,
    num_workers=0,
    epoch_length=4,
    policy="cumulative",
    stratify=True,
    seed=0,
    loss_function=None,
    learning_rate=0.05,
    handlers=(),
    validate=True,
    scheduler=False,
    interval=1,
    noise=0.2,
    **options,
):
    """Build a small chain; returns the trainer."""
    chain = ChainOptions(**{name: options.pop(name) for name in option_names(ChainOptions) if name in options})
    items = make_items() if items is None else items
    plan = plan or plan_chain(items, held_out(policy=policy, stratify=stratify, seed=seed), classes=("a", "b", "c"))
    network = network or make_network()
    transform = Compose([RandGaussianNoised("image", prob=1.0, std=noise)])
    loader = DataLoader(Dataset(plan.select(items, "train"), transform), batch_size=batch_size, num_workers=num_workers)
    evaluator = make_evaluator(network, plan.select(items, "val")) if validate else None
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=0.9)
    fresh = [torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)] if scheduler else []
    validation = [ValidationHandler(interval, evaluator)] if validate else []
    if scheduler:
        validation.append(LrScheduleHandler(fresh[0], print_lr=False))
    return ChainDistillationTrainer(
        "cpu",
        max_epochs,
        plan=plan,
        chain=chain,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=loss_function or DistillationLoss(temperature=2.0),
        epoch_length=epoch_length,
        evaluator=evaluator,
        decollate=False,
        train_handlers=[*validation, *handlers],
        fresh=fresh,
        **options,
    )
