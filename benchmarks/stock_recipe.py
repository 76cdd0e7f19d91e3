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

"""The otoscopy bundle's chain from MONAI's own parts, as a MONAI user would write it."""

from __future__ import annotations

import argparse
import json
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ignite.metrics import Accuracy
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ROCAUC, LrScheduleHandler, StatsHandler, ValidationHandler, from_engine
from monai.networks.nets import ResNet
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    CopyItemsd,
    LoadImaged,
    RandAffined,
    RandCoarseDropoutd,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Resized,
    ScaleIntensityRanged,
)
from monai.utils import set_determinism

from monai_weckd import plan_chain
from monai_weckd.data import load_datalist
from monai_weckd.plan.settings import PlanSettings

DESCRIPTION = """Train the otoscopy bundle's chain with MONAI's own parts and their defaults, and print its seconds.
Of this project it uses the data list and the plan alone. It stands for what a MONAI user would write."""
STAGES, EPOCHS, LENGTH, BATCH, TEMPERATURE, RATE = 3, 12, 20, 16, 2.0, 1e-3


def loading() -> list[Any]:
    """Return the transforms that load an image."""
    return [
        LoadImaged("image", reader="PILReader", ensure_channel_first=True),
        Resized("image", spatial_size=(64, 64), mode="area"),
        ScaleIntensityRanged("image", a_min=0, a_max=255, b_min=-1, b_max=1, clip=True),
    ]


def augmentation() -> list[Any]:
    """Return the transforms that augment an image."""
    return [
        RandFlipd("image", prob=0.5, spatial_axis=0),
        RandAffined(
            "image",
            prob=1.0,
            rotate_range=3.14,
            translate_range=(6, 6),
            scale_range=(0.2, 0.2),
            padding_mode="border",
        ),
        RandScaleIntensityd("image", prob=0.8, factors=0.3, channel_wise=True),
        RandShiftIntensityd("image", prob=0.8, offsets=0.2, channel_wise=True),
        RandCoarseDropoutd(
            "image", prob=0.5, holes=1, max_holes=3, spatial_size=8, max_spatial_size=20, fill_value=0.0
        ),
    ]


def postprocessing() -> Compose:
    """Return the postprocessing for the metrics."""
    return Compose(
        [
            Activationsd("pred", softmax=True),
            CopyItemsd("label", names="label_onehot"),
            AsDiscreted("label_onehot", to_onehot=5),
        ]
    )


def guided_step(teacher: torch.nn.Module, pool: Any) -> Any:
    """Return an iteration that learns from labels, and from the teacher on labeled and pool images."""

    def step(engine: SupervisedTrainer, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        inputs = torch.cat([batch["image"], next(pool)["image"]])
        labels = batch["label"]
        engine.network.train()
        engine.optimizer.zero_grad()
        with torch.no_grad():
            target = F.softmax(teacher(inputs) / TEMPERATURE, dim=1)
        logits = engine.network(inputs)
        divergence = F.kl_div(F.log_softmax(logits / TEMPERATURE, dim=1), target, reduction="batchmean")
        loss = 0.5 * F.cross_entropy(logits[: len(labels)], labels) + 0.5 * TEMPERATURE**2 * divergence
        loss.backward()
        engine.optimizer.step()
        return {"image": inputs[: len(labels)], "label": labels, "pred": logits[: len(labels)], "loss": loss.detach()}

    return step


def endless(loader: DataLoader) -> Any:
    """Yield batches forever."""
    while True:
        yield from loader


def run_stage(
    network: torch.nn.Module, teacher: torch.nn.Module | None, labeled: Any, pool: Any, validation: DataLoader
) -> None:
    """Train one student."""
    device = torch.device("cpu")
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    evaluator = SupervisedEvaluator(
        device,
        validation,
        network,
        postprocessing=postprocessing(),
        key_val_metric={"auc": ROCAUC(output_transform=from_engine(["pred", "label_onehot"]))},
        additional_metrics={"accuracy": Accuracy(output_transform=from_engine(["pred", "label"]))},
    )
    SupervisedTrainer(
        device,
        EPOCHS,
        labeled,
        network,
        optimizer,
        torch.nn.CrossEntropyLoss(),
        epoch_length=LENGTH,
        iteration_update=None if teacher is None else guided_step(teacher, pool),
        train_handlers=[
            ValidationHandler(1, evaluator),
            LrScheduleHandler(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS), print_lr=False),
            StatsHandler(output_transform=from_engine("loss", first=True), iteration_log=False),
        ],
    ).run()


def run(dataset_dir: Path) -> dict[str, float]:
    """Train the whole chain and return its seconds, decoding included."""
    set_determinism(seed=4)
    items, classes, *_ = load_datalist(dataset_dir)
    plan = plan_chain(
        items, PlanSettings(num_stages=STAGES, policy="cumulative", stratify=False, seed=4), classes=classes
    )
    start, cpu = time.perf_counter(), time.process_time()
    training = CacheDataset(plan.select(items, "train"), Compose([*loading(), *augmentation()]), progress=False)
    held_out = [
        CacheDataset(plan.select(items, split), Compose(loading()), progress=False) for split in ("val", "test")
    ]
    place = {item["id"]: index for index, item in enumerate(training.data)}
    network = ResNet(
        "basic",
        [1, 1, 1, 1],
        [32, 64, 128, 256],
        spatial_dims=2,
        n_input_channels=3,
        conv1_t_stride=2,
        num_classes=5,
    )
    teacher = None
    for stage in plan.stages:
        labeled = torch.utils.data.Subset(training, [place[key] for key in stage.labeled])
        rest = torch.utils.data.Subset(training, [place[key] for key in plan.pool(stage.stage)])
        sampler = torch.utils.data.RandomSampler(labeled, replacement=True, num_samples=BATCH * LENGTH)
        run_stage(
            network,
            teacher,
            DataLoader(labeled, batch_size=BATCH, sampler=sampler),
            endless(DataLoader(rest, batch_size=BATCH, shuffle=True, drop_last=True)),
            DataLoader(held_out[0], batch_size=64),
        )
        teacher = deepcopy(network).eval().requires_grad_(False)
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument("dataset_dir", type=Path)
    print(json.dumps(run(parser.parse_args().dataset_dir)))
