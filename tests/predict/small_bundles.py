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

import json
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from PIL import Image

__all__ = ["NAMES", "small_bundle", "write_noise"]

NAMES = ["ill", "well", "=odd"]


def small_bundle(folder: Path, **changes) -> Path:
    """Write a bundle of pictures with a small network, and its model; returns its folder.

    Args:
        folder: where to write it.
        changes: values of its inference.json, by key.

    """
    network = {"_target_": "DenseNet", "spatial_dims": 2, "in_channels": 3, "out_channels": 3}
    config = {
        "imports": [],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "device": "cpu",
        "channels": 3,
        "spatial_size": [16, 24],
        "class_names": NAMES,
        "network_def": {**network, "init_features": 8, "growth_rate": 4, "block_config": [1, 1]},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
                {"_target_": "Transposed", "keys": "image", "indices": [0, 2, 1]},
                {"_target_": "Resized", "keys": "image", "spatial_size": "@spatial_size"},
                {"_target_": "NormalizeIntensityd", "keys": "image"},
            ],
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Activationsd", "keys": "pred", "softmax": True},
    }
    image = {"num_channels": 3, "spatial_shape": [9, 9], "channel_def": {"0": "red", "1": "green", "2": "blue"}}
    described = {
        "inputs": {"image": image},
        "outputs": {"pred": {"num_channels": 2, "channel_def": {"0": "a", "1": "b"}}},
    }
    parser = ConfigParser(config)
    for key, value in changes.items():
        parser[key] = value
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(parser.get()))
    metadata = {"name": "Small", "version": "1.2.3", "network_data_format": described}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def write_noise(folder: Path, count: int) -> Path:
    """Write pictures of noise; returns their folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder
