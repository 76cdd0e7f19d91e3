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

"""What holds for the files of all bundles, and what they train on that is no phantom."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil

import monai.bundle
import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES, KINDS, SMALL_IMAGES, SOLVED, bundle_of, load_network, run_python, train
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from PIL import Image

from monai_weckd.bundle import BundleConfig

# of findings, whose runs test_chest_xray.py looks at
FILED = [*KINDS, "chest_xray"]
REAL = {"otoscopy": "otoscopy", "brain_mri": "brain_mri", "brain_mri_3d": "hippocampus_mri_3d"}


def test_pictures_are_turned_and_converted_where_nothing_else_has_imported_pillow(tmp_path):
    # MONAI's LoadImage tries its other readers, without a word, where the one that is asked for fails
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    configs = [
        str(bundle_of(kind) / "configs" / f"{name}.json")
        for kind in ("otoscopy", "brain_mri")
        for name in ("inference", "evaluate")
    ]
    done = run_python(f"""
from monai.bundle import ConfigParser
for config in {configs!r}:
    parser = ConfigParser(ConfigParser.load_config_file(config))
    reader = parser.get_parsed_content("preprocessing#transforms#0#reader")
    image = reader.read({str(tmp_path / "a.jpg")!r})
    print(image.size, image.mode)
""")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-4:] == ["(4, 6) RGB"] * 2 + ["(4, 6) L"] * 2


@pytest.mark.parametrize("kind", ["otoscopy", "blood_smear", "brain_mri", "chest_xray"])
@pytest.mark.parametrize("name", ["train", "inference", "evaluate"])
def test_a_network_sees_pictures_with_rows_first(kind, name, tmp_path):
    pixels = np.full((40, 80, 3), 20, dtype=np.uint8)
    pixels[:10] = 220  # a bright band at the top
    Image.fromarray(pixels).save(tmp_path / "a.png")
    place = "train#preprocessing" if name == "train" else "preprocessing"
    config = BundleConfig(bundle_of(kind), name, changes={"spatial_size": [32, 48]})
    image = config.value(place)({"image": str(tmp_path / "a.png"), "label": np.zeros(2)})["image"]
    assert image.shape == (1 if kind in ("brain_mri", "chest_xray") else 3, 32, 48)
    assert image[:, 0].min() > image[:, 31].max()


def test_a_medmnist_archive_is_a_data_set(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 80), ("val", 16), ("test", 16)):
        labels = np.arange(count)[:, None] % 2
        images = rng.integers(0, 100, (count, 28, 28, 3)) + 100 * labels[:, :, None, None]
        arrays |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels.astype(np.uint8)}
    np.savez_compressed(tmp_path / "mine.npz", **arrays)
    chain = train(bundle_of("blood_smear"), tmp_path / "mine.npz", tmp_path / "out", label_fraction=0.3)
    assert chain["label_budget"] == {"train": 72, "val": 16}


@pytest.mark.parametrize("kind", FILED)
def test_metadata_follows_the_schema(kind, shared_data, tmp_path):
    schema = shutil.copy(shared_data("monai_bundle_meta_schema_20240725.json"), tmp_path / "schema.json")
    meta_file = bundle_of(kind) / "configs" / "metadata.json"
    verify_metadata(str(meta_file), filepath=str(schema))
    meta = json.loads(meta_file.read_text())
    assert meta["version"] in meta["changelog"]
    assert "monai-weckd" not in meta["required_packages_version"]


@pytest.mark.parametrize("kind", FILED)
def test_network_agrees_with_the_metadata(kind):
    configs = bundle_of(kind) / "configs"
    verify_net_in_out(
        "network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
        bundle_root=str(bundle_of(kind)),
    )


@pytest.mark.parametrize("kind", FILED)
def test_bundle_load_gives_the_network(kind, tmp_path):
    bundle = tmp_path / bundle_of(kind).name
    shutil.copytree(bundle_of(kind), bundle)
    (bundle / "models").mkdir(exist_ok=True)
    config = str(bundle / "configs" / "inference.json")
    workflow = ConfigWorkflow(config, workflow_type="infer", logging_file=False, bundle_root=str(bundle))
    workflow.initialize()
    expected = workflow.network_def.state_dict()
    torch.save(expected, bundle / "models" / "model.pt")
    network = monai.bundle.load(bundle.name, bundle_dir=str(tmp_path), source="local", workflow_type="inference")
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def thin(data, folder, *, groups=30):
    """Make a data set of some of the groups of another one, whose images it shares; returns its folder."""
    folder.mkdir()
    for path in data.iterdir():
        if path.is_dir():
            (folder / path.name).symlink_to(path, target_is_directory=True)
    with (data / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["group"] for row in rows})
    kept = set(names[:: max(1, len(names) // groups)])
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["file", "label", "group"], extrasaction="ignore")
        table.writeheader()
        table.writerows(row for row in rows if row["group"] in kept)
    return folder


# a data base takes longer to make than all the rest
MLFLOW = pytest.param("otoscopy", {"tracking": "mlflow"}, marks=pytest.mark.slow)


@pytest.mark.parametrize(("kind", "tracking"), [*((kind, {}) for kind in REAL), MLFLOW])
def test_it_trains_on_real_images_and_mlflow_tracks_it(kind, tracking, shared_data, tmp_path):
    data = thin(shared_data(REAL[kind]), tmp_path / "data")
    options = dict(tracking)
    options |= {"label_fraction": 0.3, "selection": "random", "missing_classes": "allow"}
    options |= SMALL_IMAGES[kind] if kind == "brain_mri_3d" else {"spatial_size": [32, 32]}
    chain = train(bundle_of(kind), data, tmp_path / "out", base=SOLVED, **options)
    assert len(chain["stages"]) == 3
    assert (tmp_path / "out" / "mlruns.db").exists() == bool(tracking)
    assert chain["settings"]["synthetic"] is False
    load_network(kind, tmp_path / "out")


def test_generated_files_are_current():
    spec = importlib.util.spec_from_file_location("build", BUNDLES / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    for path, text in build.build().items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is not current: run `make bundles`"
