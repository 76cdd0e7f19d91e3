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

import pytest
from chain_runs import make_chain

from monai_weckd.handlers import ChainProgressBar, progress


@pytest.fixture
def terminal(monkeypatch):
    """Let the bar believe that it writes to a terminal; returns what it writes."""
    stream = io.StringIO()
    real = progress.tqdm
    monkeypatch.setattr(
        progress, "tqdm", lambda **options: real(**{**options, "disable": False, "file": stream, "mininterval": 0})
    )
    return stream


def test_bar_spans_the_chain(terminal):
    bar = ChainProgressBar()
    trainer = make_chain(max_epochs=6, handlers=[bar])
    bar.evaluator = trainer.walker.evaluator
    trainer.run()
    shown = terminal.getvalue()
    assert "stage 3 epoch 2/2: 100%" in shown
    assert "24/24" in shown
    assert "loss=" in shown
    assert "val_accuracy=" in shown


def test_bar_has_no_metric_without_validation(terminal):
    make_chain(max_epochs=3, validate=False, handlers=[ChainProgressBar(None)]).run()
    shown = terminal.getvalue()
    assert "stage 3 epoch 1/1: 100%" in shown
    assert "loss=" in shown
    assert "val_accuracy=" not in shown


def test_bar_is_silent_without_a_terminal(capfd):
    make_chain(max_epochs=3, handlers=[ChainProgressBar()]).run()
    assert "%" not in capfd.readouterr().err
