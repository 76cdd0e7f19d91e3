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

import hashlib
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from PIL import Image

from monai_weckd.networks import EfficientNetLite
from monai_weckd.utils.records import sealed_json
from monai_weckd.utils.tables import table_text

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
OTOSCOPY = BUNDLES / "otoscopy_chain_classification"
BRAIN_3D = BUNDLES / "brain_mri_3d_chain_classification"
CLASSES = ["chronic_otitis_media", "=earwax", "myringosclerosis", "normal"]


def untrained_model(
    folder: Path,
    bundle: Path = OTOSCOPY,
    *,
    classes=CLASSES,
    calibration=1.25,
    out_of_fold=None,
    labeled=None,
    preprocessing=None,
    **settings,
) -> Path:
    """Write the model of a bundle with a random head, and chain.json beside it; returns the model's path."""
    folder.mkdir(parents=True, exist_ok=True)
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser["bundle_root"], parser["class_names"] = str(bundle), list(classes)
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    # features that differ between images
    imagenet = EfficientNetLite(parser["network_def"]["network"]["spatial_dims"], parser["channels"], pretrained=True)
    network.network.load_state_dict(imagenet.state_dict(), strict=False)
    torch.save(network.state_dict(), folder / "model.pt")
    chain = {
        "classes": list(classes),
        "settings": settings,
        "preprocessing": preprocessing,
        "stages": [
            {"stage": 1, "calibration": 3.0},
            {"stage": 2, "calibration": calibration, "out_of_fold": out_of_fold, "labeled": labeled},
        ],
        "final": {"stage": 2, "sha256": hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()},
    }
    (folder / "chain.json").write_text(sealed_json(chain, indent=1))
    return folder / "model.pt"


def write_held_out(model: Path, rows) -> None:
    """Write out_of_fold.csv beside a model: rows of a group, a label and its probability, None if never held out."""
    columns = [f"probability_{name}" for name in CLASSES]
    found = []
    for number, (group, label, value) in enumerate(rows):
        others = "" if value is None else (1 - value) / (len(CLASSES) - 1)
        values = {**dict.fromkeys(columns, others), f"probability_{label}": "" if value is None else value}
        row = {"id": f"{number}.png", "group": group, "label": label, **values}
        found.append({key: row[key] for key in ("id", "group", "label", *columns)})
    text = table_text(["id", "group", "label", *columns], found)
    model.with_name("out_of_fold.csv").write_text(text)


def write_kind(model: Path, features, limit: float) -> None:
    """Write kind.npz beside a model: features of training images and the limit."""
    np.savez(model.with_name("kind.npz"), features=np.asarray(features, np.float16), limit=np.float64(limit))


def write_pictures(folder: Path) -> list[str]:
    """Write one picture of each kind; returns the names."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[274] = 6
    color.save(folder / "a.png")
    color.save(folder / "b.jpg", exif=turned)
    color.convert("L").save(folder / "c.tif")
    color.convert("P").save(folder / "d.png")
    color.convert("RGBA").save(folder / "e.png")
    color.save(folder / "=f.bmp")
    return sorted(path.name for path in folder.iterdir())
