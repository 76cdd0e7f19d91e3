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

"""P4: measure images per CPU second, loaded and augmented."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, Dataset
from monai.transforms import (
    Compose,
    EnsureTyped,
    LoadImaged,
    RandFlipd,
    RandRotated,
    RandZoomd,
    Resized,
    ScaleIntensityRanged,
)
from PIL import Image

from benchmarks.harness import Result, interleave, ratio
from monai_weckd.data import ByteCacheDataset
from monai_weckd.transforms import BatchAugment, BatchRandAffine, BatchRandFlip

__all__ = ["measure"]

ANGLE, ZOOM, BATCH = 0.3, 0.1, 16


def write_pictures(folder: Path, number: int, side: int) -> list[dict[str, str]]:
    """Write JPEG files of smooth noise."""
    rng, items = np.random.default_rng(0), []
    for index in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        path = folder / f"{index}.jpg"
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
        items.append({"image": str(path)})
    return items


def fixed_transforms(side: int) -> list[Callable]:
    """Return the deterministic transforms: load, resize, scale."""
    return [
        LoadImaged("image", reader="PILReader", ensure_channel_first=True),
        Resized("image", spatial_size=(side, side), mode="area"),
        ScaleIntensityRanged("image", a_min=0, a_max=255, b_min=-1, b_max=1),
    ]


def random_transforms() -> list[Callable]:
    """Return MONAI's random transforms for single images."""
    return [
        RandFlipd("image", prob=0.5, spatial_axis=0),
        RandRotated("image", prob=0.5, range_x=ANGLE, padding_mode="border"),
        RandZoomd("image", prob=0.5, min_zoom=1 - ZOOM, max_zoom=1 + ZOOM, padding_mode="edge"),
        EnsureTyped("image", track_meta=False),
    ]


def batched() -> BatchAugment:
    """Return the same kinds of augmentation for whole batches: rotation and zoom share one resampling."""
    affine = BatchRandAffine(0.75, rotate_range=ANGLE, scale_range=ZOOM)  # either of two, each with probability 0.5
    return BatchAugment([BatchRandFlip(0.5), affine])


class PillowRam:
    """Handwritten code with Pillow alone: pictures of the final size in memory, augmented one by one."""

    def __init__(self, items: list[dict[str, str]], side: int) -> None:
        box = Image.Resampling.BOX
        self.pictures = [Image.open(item["image"]).convert("RGB").resize((side, side), box) for item in items]
        self.rng = np.random.default_rng(0)

    def epoch(self) -> None:
        """Augment every picture once, in batches of float tensors."""
        for first in range(0, len(self.pictures), BATCH):
            torch.stack([self.augment(picture) for picture in self.pictures[first : first + BATCH]])

    def augment(self, picture: Image.Image) -> torch.Tensor:
        """Flip, rotate and zoom, each with probability 0.5."""
        flip, turn, zoom = self.rng.random(3) < 0.5
        width, height = picture.size
        if flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if turn:
            angle = np.degrees(self.rng.uniform(-ANGLE, ANGLE))
            picture = picture.rotate(angle, resample=Image.Resampling.BILINEAR)
        if zoom:
            scale = self.rng.uniform(1 - ZOOM, 1 + ZOOM)
            x, y = (1 - scale) * width / 2, (1 - scale) * height / 2
            picture = picture.transform(
                picture.size, Image.Transform.AFFINE, (scale, 0, x, 0, scale, y), resample=Image.Resampling.BILINEAR
            )
        array = np.asarray(picture).transpose(2, 0, 1)
        return torch.from_numpy(array.astype(np.float32)).mul_(2 / 255).sub_(1)


def measure(*, quick: bool = False) -> list[Result]:
    """Measure P4: images per CPU second, loaded and augmented."""
    number, source, side, rounds = (4, 48, 24, 1) if quick else (64, 480, 224, 9)
    with tempfile.TemporaryDirectory() as folder:
        items = write_pictures(Path(folder), number, source)
        every = Compose([*fixed_transforms(side), *random_transforms()])
        plain = DataLoader(Dataset(items, every), batch_size=BATCH)
        cached = DataLoader(CacheDataset(items, every, progress=False), batch_size=BATCH)
        pillow = PillowRam(items, side)
        ours, augment, views = ByteCacheDataset(items, fixed_transforms(side), value_range=(-1, 1)), batched(), count()
        order = np.random.default_rng(0)

        def epoch() -> None:
            for indices in np.array_split(order.permutation(number), max(1, number // BATCH)):
                augment(ours.gather(indices), [next(views) for _ in indices])

        arms: dict[str, Callable[[], object]] = {
            "Dataset": lambda: list(plain),
            "CacheDataset": lambda: list(cached),
            "Pillow": pillow.epoch,
            "ours": epoch,
        }
        times = interleave(arms, rounds=rounds)
    speed = {name: number / median(values) for name, values in times.items()}
    note = ", ".join(f"{name} {value:.0f}" for name, value in speed.items())
    limits = {"Dataset": 8.0, "CacheDataset": 2.8, "Pillow": 1.0}
    return [
        Result(
            "P4",
            f"images per CPU second, ours / {name if name != 'Pillow' else 'Pillow on resized images in memory'}",
            ratio(times, name, "ours"),
            limit,
            at_least=True,
            note=f"{source}² JPEG to {side}², images a second: {note}" if name == "Dataset" else "",
        )
        for name, limit in limits.items()
    ]
