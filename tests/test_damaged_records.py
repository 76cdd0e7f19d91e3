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

"""Truncated or bit-flipped records are refused in one line; none is taken for what it was."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from functools import cache

import pytest
from chain_runs import make_chain, make_items
from held_out import held_out
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from monai.data import Dataset
from torch.utils.data import DataLoader

from monai_weckd import plan_chain
from monai_weckd.cli.main import main
from monai_weckd.compare.store import RunStore
from monai_weckd.engines.label_task import task_of
from monai_weckd.handlers import ChainRecorder
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.visualize import report

CELL = (0, 1, 0)


@st.composite
def damage(draw, content: bytes) -> bytes:
    """Return the beginning of a file, or all of it with one bit turned."""
    place = draw(st.integers(0, len(content) - 1))
    if draw(st.booleans()):
        return content[:place]
    changed = bytearray(content)
    changed[place] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def run(*arguments) -> tuple[int, str]:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as error:
        return main(list(map(str, arguments))), error.getvalue()


def same(content: bytes, original: bytes) -> bool:
    try:
        return json.loads(content) == json.loads(original)
    except ValueError:
        return False


def check(path, content, *command):
    """Run a command on a damaged file: one line and exit code 1, unless the file says the same as before."""
    original = path.read_bytes()
    path.write_bytes(content)
    try:
        code, error = run(*command)
    finally:
        path.write_bytes(original)
    if code == 0:
        assert same(content, original)
    else:
        assert code == 1
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert path.name in error


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    items = make_items(24)
    plan = plan_chain(items, held_out(policy="cumulative", label_fraction=0.2, seed=1), classes=("a", "b", "c"))
    loaders = {split: DataLoader(Dataset(plan.select(items, split)), batch_size=8) for split in ("val", "test")}
    recorder = ChainRecorder(folder, None, val_data_loader=loaders["val"], test_data_loader=loaders["test"])
    trainer = make_chain(items=items, plan=plan, handlers=[recorder], max_epochs=3)
    recorder.evaluator = trainer.walker.evaluator
    trainer.run()
    assert run("report", "--output_dir", folder)[0] == 0
    return folder


@pytest.fixture(scope="module", autouse=True)
def _no_drawing():
    # a page takes half a second, and what is refused is refused before it is drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "page_template", cache(report.page_template))
        patch.setattr(report, "learning_curves_svg", lambda *_, **__: b"")
        patch.setattr(report, "reliability_svg", lambda *_: b"")
        patch.setattr(report, "bootstrap_intervals", lambda *_, **__: dict.fromkeys(report.METRIC_NAMES))
        yield


@pytest.mark.parametrize("name", ["plan.json", "chain.json", "history.json"])
def test_report(output, name):
    path = output / name

    @given(damage(path.read_bytes()))
    @examples(max_examples=40)
    def holds(content):
        check(path, content, "report", "--output_dir", output)

    holds()


def test_shards(output, tmp_path):
    lines = ["file,label,group"]
    for item in make_items(24):
        (tmp_path / item["id"]).touch()
        lines.append(f"{item['id']},{'abc'[item['label']]},{item['group']}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    command = ("plan", "--dataset_dir", tmp_path, "--shards", output / "plan.json", "--seed", "1")
    assert run(*command) == (0, "")

    @given(damage((output / "plan.json").read_bytes()))
    @examples(max_examples=40)
    def holds(content):
        check(output / "plan.json", content, *command)

    holds()


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_results_of_a_comparison(tmp_path, suffix):
    store = RunStore(tmp_path)
    rows = [{"id": f"{i}.png", "label": "a", "probability_a": 0.75, "probability_b": 0.25} for i in range(3)]
    store.write("chain", CELL, {"digest": "d", "labels": 9, "test": {"accuracy": 0.71}}, rows=rows)
    path = store.path("chain", CELL, suffix)

    def content():
        found = store.read("chain", CELL, digest="d")
        return found, store.predictions("chain", CELL, task_of(LabelKind(("a", "b")))).probabilities.tolist()

    sound, original = content(), path.read_bytes()

    @given(damage(original))
    @examples(max_examples=100)
    def holds(damaged):
        path.write_bytes(damaged)
        error, found, probabilities = None, *sound
        try:
            found, probabilities = content()
        except ValueError as raised:
            error = str(raised)
        # the name of the seal itself may be what was hit
        assert ({key: found[key] for key in sound[0]}, probabilities) == sound
        if error is not None:
            assert error.startswith(f"{path}: expected ")
            assert error.endswith((" Remove the file.", f" Remove {path.stem}.json."))
            assert "\n" not in error

    holds()
