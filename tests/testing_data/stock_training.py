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

import sys
from pathlib import Path

import torch
from ignite.metrics import Accuracy
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointSaver, StatsHandler, ValidationHandler, from_engine
from monai.networks.nets import DenseNet
from monai.transforms import Compose, LoadImaged, RandFlipd, Resized, ScaleIntensityd
from monai.utils import set_determinism

set_determinism(seed=0)
folder = Path(sys.argv[1])
classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
items = [{"image": path, "label": classes.index(path.parent.name)} for path in sorted(folder.glob("*/*.png"))]
load = [
    LoadImaged("image", ensure_channel_first=True),
    Resized("image", spatial_size=(32, 32)),
    ScaleIntensityd("image"),
]
training = CacheDataset(items[1::2], Compose([*load, RandFlipd("image", prob=0.5)]), progress=False)
validation = CacheDataset(items[::2], Compose(load), progress=False)

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
network = DenseNet(2, 3, len(classes), init_features=16, growth_rate=8, block_config=(2, 2)).to(device)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
evaluator = SupervisedEvaluator(
    device=device,
    val_data_loader=DataLoader(validation, batch_size=16),
    network=network,
    key_val_metric={"val_accuracy": Accuracy(output_transform=from_engine(["pred", "label"]))},
)
trainer = SupervisedTrainer(
    device=device,
    max_epochs=2,
    train_data_loader=DataLoader(training, batch_size=8, shuffle=True),
    network=network,
    optimizer=optimizer,
    loss_function=torch.nn.CrossEntropyLoss(),
    train_handlers=[
        ValidationHandler(interval=1, validator=evaluator),
        StatsHandler(tag_name="loss", output_transform=from_engine("loss", first=True)),
        CheckpointSaver(save_dir=sys.argv[2], save_dict={"network": network}, save_final=True),
    ],
)
trainer.run()
