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

import io
import sys

import pytest
from chain_runs import make_chain

from monai_weckd.handlers import ChainProgressBar
from monai_weckd.utils import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch):
    """Let the bar write to a terminal, at each step; returns the terminal."""
    # within the test: pytest sets the stream anew between a fixture and its test
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "_IN_TERMINAL", 0)
    return sys.stderr


def test_bar_spans_the_chain(monkeypatch):
    stream = terminal(monkeypatch)
    bar = ChainProgressBar()
    trainer = make_chain(max_epochs=6, handlers=[bar])
    bar.evaluator = trainer.walker.evaluator
    trainer.run()
    shown = stream.getvalue()
    assert "training: 100%" in shown
    assert "24/24" in shown
    assert "stage 3 epoch 2/2, loss=" in shown
    assert "val_accuracy=" in shown


def test_bar_has_no_metric_without_validation(monkeypatch):
    stream = terminal(monkeypatch)
    make_chain(max_epochs=3, validate=False, handlers=[ChainProgressBar(None)]).run()
    shown = stream.getvalue()
    assert "stage 3 epoch 1/1, loss=" in shown
    assert "val_accuracy=" not in shown


@pytest.mark.parametrize("has_tqdm", [True, False])
def test_without_a_terminal_the_log_says_how_far_it_is(has_tqdm, caplog, capfd, monkeypatch):
    caplog.set_level("INFO", "monai_weckd.utils.progress")
    monkeypatch.setattr(progress, "_IN_LOG", 0)
    if not has_tqdm:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    make_chain(max_epochs=3, validate=False, handlers=[ChainProgressBar(None)]).run()
    lines = [record.getMessage() for record in caplog.records if record.name == "monai_weckd.utils.progress"]
    assert lines[0] == "training: 12 steps"
    assert lines[5].startswith("training: 5 of 12 steps, stage 2 epoch 1/1, loss=")
    assert "%" not in capfd.readouterr().err
