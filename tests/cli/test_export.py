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
import re

import pytest
from small_bundles import small_bundle, write_noise

from monai_weckd.cli.main import main
from monai_weckd.predict import export


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("bundles") / "small")


def run(bundle, *options):
    return main(["export", "--bundle", str(bundle), *map(str, options)])


def test_the_default_is_pt2_with_probabilities_beside_the_model(bundle, capsys):
    assert run(bundle) == 0
    out = capsys.readouterr().out
    path = bundle / "models" / "model.pt2"
    assert path.is_file()
    assert json.loads((bundle / "models" / "model.pt2.json").read_text())["output"] == "probabilities"
    assert "checked on 8 random images (pass --dataset_dir for real ones): probabilities differ by at most" in out
    assert "takes   image, any number x 3 x 16 x 24; gives probabilities, any number x 3\n" in out
    assert f"written {path} and model.pt2.json\n" in out


def test_it_is_checked_on_the_images_given_or_the_bundles_own(tmp_path, capsys):
    bundle = small_bundle(tmp_path / "bundle")
    options = ("--format", "torchscript", "--output", "logits", "--to", tmp_path / "mine.ts")
    images = write_noise(tmp_path / "images", 3)
    assert run(bundle, *options, "--dataset_dir", images) == 0
    assert re.search(r"checked on 3 images: logits differ by at most \de-\d+ from", capsys.readouterr().out)
    write_noise(bundle / "data", 2)
    assert run(bundle, *options) == 0
    assert "checked on 2 images: logits" in capsys.readouterr().out
    assert (tmp_path / "mine.ts").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--format", "onx"],
            "format: expected one of ('pt2', 'onnx', 'torchscript'), got 'onx'. Did you mean 'onnx'?",
        ),
        (["--output", "logit"], "output: expected one of ('probabilities', 'logits'), got 'logit'. Did you mean"),
        (["--to", "model.onnx"], "to: expected a file with the suffix .pt2 of pt2, got model.onnx. Rename it."),
        (["--ckpt", "none.pt"], "ckpt: expected a model, got nothing at none.pt."),
        (["--dataset_dir", "none"], "input: expected a file or folder, got nothing at none. Correct the path."),
        (["--set", "spatal_size=[8,8]"], "set: expected a key of"),
    ],
)
def test_errors_are_one_line(bundle, capsys, options, message):
    assert run(bundle, *options) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_a_missing_package_is_named_before_anything_is_loaded(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(export, "optional_import", lambda name: (None, name != "onnxscript"))
    assert run(tmp_path, "--format", "onnx") == 1
    message = "error: format: expected the package onnxscript to write onnx, got none. Install it: pip install "
    assert capsys.readouterr().err == f'{message}"monai-weckd[export]".\n'
