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

"""A training of a vision transformer as MONAI's tutorials write it: early stop, checkpoints, schedule, sampler, AMP."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from ignite.metrics import Accuracy
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import (
    CheckpointLoader,
    CheckpointSaver,
    EarlyStopHandler,
    LrScheduleHandler,
    ValidationHandler,
    stopping_fn_from_metric,
)
from monai.networks.nets import ViT
from monai.transforms import Compose, LoadImaged, RandFlipd, Resized, ScaleIntensityd
from monai.utils import set_determinism
from torch.utils.data import WeightedRandomSampler

set_determinism(seed=0)
folder, output_dir = Path(sys.argv[1]), Path(sys.argv[2])
classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
items = [{"image": path, "label": classes.index(path.parent.name)} for path in sorted(folder.glob("*/*.png"))]
load = [
    LoadImaged("image", ensure_channel_first=True),
    Resized("image", spatial_size=(32, 32)),
    ScaleIntensityd("image"),
]
training = CacheDataset(items[1::2], Compose([*load, RandFlipd("image", prob=0.5)]), progress=False)
validation = CacheDataset(items[::2], Compose(load), progress=False)
labels = [item["label"] for item in training.data]
sampler = WeightedRandomSampler([1 / labels.count(label) for label in labels], num_samples=len(labels))

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
network = ViT(
    in_channels=3,
    img_size=(32, 32),
    patch_size=(8, 8),
    spatial_dims=2,
    hidden_size=32,
    mlp_dim=64,
    num_layers=2,
    num_heads=2,
    classification=True,
    num_classes=len(classes),
    post_activation="",
).to(device)
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
cross_entropy = torch.nn.CrossEntropyLoss()
early_stop = EarlyStopHandler(1, stopping_fn_from_metric("val_accuracy"), min_delta=1.0)
evaluator = SupervisedEvaluator(
    device=device,
    val_data_loader=DataLoader(validation, batch_size=16),
    network=network,
    key_val_metric={"val_accuracy": Accuracy(output_transform=lambda output: (output["pred"][0], output["label"]))},
    val_handlers=[early_stop],
    decollate=False,
    amp=True,
)
trainer = SupervisedTrainer(
    device=device,
    max_epochs=6,
    train_data_loader=DataLoader(training, batch_size=8, sampler=sampler, drop_last=True),
    network=network,
    optimizer=optimizer,
    loss_function=lambda output, label: cross_entropy(output[0], label),
    train_handlers=[
        ValidationHandler(interval=1, validator=evaluator),
        LrScheduleHandler(scheduler, print_lr=False),
        CheckpointSaver(str(output_dir), {"network": network, "optimizer": optimizer}, save_final=True),
    ],
    decollate=False,
    amp=True,
)
if len(sys.argv) > 3:
    CheckpointLoader(sys.argv[3], {"network": network}).attach(trainer)
early_stop.set_trainer(trainer)
trainer.run()
