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
import runpy
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

from monai_weckd.data.phantoms import make_phantom

DATA = Path(__file__).parents[1] / "testing_data"
SCRIPT, BUNDLE = DATA / "stock_training.py", DATA / "stock_bundle"
README = Path(__file__).parents[2] / "README.md"
TUTORIAL = README.parent / "docs" / "tutorials" / "handlers.md"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock") / "images"
    make_phantom("otoscopy", folder, items=96)
    return folder


def run_script(text, folder, images, output_dir, monkeypatch, *more):
    """Run the text of a script in a folder, as `python script.py IMAGES OUTPUT_DIR ...`; returns what it defines."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["script.py", str(images), str(output_dir), *map(str, more)])
    (folder / "script.py").write_text(text)
    return runpy.run_path(str(folder / "script.py"))


def final_weights(output_dir):
    return torch.load(next(output_dir.glob("*_final*.pt")), weights_only=True)


def patched(text, diff):
    """Apply a unified diff whose lines of context are lines of the text; returns the text and the added lines."""
    lines, place, added = text.splitlines(), 0, []
    for line in diff.splitlines():
        if line.startswith("+"):
            lines.insert(place, line[1:])
            added.append(line[1:])
            place += 1
        elif line.startswith(" "):
            place = lines.index(line[1:], place) + 1
    return "\n".join(lines) + "\n", added


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def test_a_stock_script_gains_a_teacher_by_the_two_lines_of_the_readme(images, tmp_path, monkeypatch):
    stock = SCRIPT.read_text()
    assert "weckd" not in stock.split("limitations under the License.")[1]
    text, added = patched(stock, re.search(r"```diff\n(.*?)```", README.read_text(), re.DOTALL).group(1))
    assert len(added) == 2
    run_script(stock, tmp_path, images, tmp_path / "alone", monkeypatch)
    alone = final_weights(tmp_path / "alone")
    torch.save(
        {key: tensor + 0.01 if tensor.is_floating_point() else tensor for key, tensor in alone.items()}, "teacher.pt"
    )
    run_script(text, tmp_path, images, tmp_path / "taught", monkeypatch)
    # the same two lines with a weight of nothing change nothing
    run_script(text.replace("weight=0.5", "weight=0.0"), tmp_path, images, tmp_path / "quiet", monkeypatch)
    taught, quiet = final_weights(tmp_path / "taught"), final_weights(tmp_path / "quiet")
    # Adam takes a whole step for the smallest gradient, so that roundings drift apart
    assert distance(quiet, alone) < 0.02 * distance(taught, alone)


def test_a_transformer_with_many_handlers_gains_a_teacher_or_a_chain_by_the_two_lines_of_the_tutorial(
    images, tmp_path, monkeypatch
):
    stock = (DATA / "stock_transformer.py").read_text()
    assert "weckd" not in stock.split("limitations under the License.")[1]
    alone = run_script(stock, tmp_path, images, tmp_path / "alone", monkeypatch)["trainer"]
    assert alone.state.epoch == 2  # the early stop
    pretrained = next((tmp_path / "alone").glob("*_final*.pt"))
    torch.save(final_weights(tmp_path / "alone")["network"], tmp_path / "teacher.pt")
    found = {}
    for kind, diff in zip(
        ("teacher", "chain"), re.findall(r"```diff\n(.*?)```", TUTORIAL.read_text(), re.DOTALL), strict=True
    ):
        text, added = patched(stock, diff)
        assert len(added) == 2
        found[kind] = run_script(text, tmp_path, images, tmp_path / kind, monkeypatch, pretrained)
    taught = found["teacher"]["trainer"]
    assert taught.state.epoch == 2
    assert taught.state.output["distillation_loss"] > 0
    # each stage begins with the loaded weights and the first rate, and the early stop ends it after two of its epochs
    chain = found["chain"]["trainer"].state.chain
    assert [(record.labeled, record.epochs) for record in chain.records] == [(12, 2), (12, 2)]
    assert found["chain"]["trainer"].state.epoch == 5
    assert found["chain"]["scheduler"].last_epoch == 2
    assert same(chain.state.initial, final_weights(tmp_path / "alone")["network"])
    assert same(final_weights(tmp_path / "chain")["network"], chain.students[-1].state_dict())
    assert not same(chain.students[-1].state_dict(), chain.state.initial)


def distance(a, b):
    """Return how far apart two networks are in all their weights together."""
    return sum((a[key].double() - b[key].double()).square().sum().item() for key in a) ** 0.5


def run_bundle(images, output_dir, *, overlays=()):
    workflow = ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / "train.json"), *map(str, overlays)],
        meta_file=None,
        workflow_type="train",
        bundle_root=str(BUNDLE),
        dataset_dir=str(images),
        output_dir=str(output_dir),
    )
    workflow.initialize()
    workflow.run()
    return workflow.parser.get_parsed_content("train#trainer")


def test_a_stock_bundle_becomes_a_chain_by_an_overlay(images, tmp_path):
    assert "weckd" not in (BUNDLE / "configs" / "train.json").read_text()
    alone = run_bundle(images, tmp_path / "alone")
    chain = run_bundle(images, tmp_path / "chain", overlays=[BUNDLE / "chain.json"])
    assert not hasattr(alone.state, "chain")
    records = chain.state.chain.records
    assert [(record.labeled, record.epochs) for record in records] == [(14, 2), (28, 2), (42, 2)]
    assert chain.state.iteration == alone.state.iteration
    saved = torch.load(tmp_path / "chain" / "model.pt", weights_only=True)
    accepted = chain.state.chain.students[-1].state_dict()
    assert same(saved, accepted)
    assert not same(saved, torch.load(tmp_path / "alone" / "model.pt", weights_only=True))


def test_the_overlay_is_small_and_the_one_of_the_tutorial():
    overlay = json.loads((BUNDLE / "chain.json").read_text())
    shown = re.search(r"```json\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    assert json.loads(shown.group(1)) == overlay
    assert len(shown.group(1).splitlines()) <= 14
