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

import builtins
import re

import pytest

from monai_weckd.visualize import comparison
from monai_weckd.visualize.comparison import check_page, comparison_page, draw_differences, draw_stages

METRICS = ("balanced_accuracy", "accuracy", "macro_f1", "macro_auc", "ece")


def arm(name, value, *, stages=1, difference=None, runs=5):
    part = None if difference is None else {"value": difference, "interval": (difference - 0.02, difference + 0.02)}
    figures = dict.fromkeys(METRICS, value)
    return {
        "name": name,
        "title": f"what {name} is",
        "uses_pool": name == "chain",
        "runs": runs,
        "failed": 1,
        "labels": 30.0,
        "val_labels": 10.0,
        "seconds": 2.5,
        "cpu_seconds": 2.0,
        "metrics": {key: {"mean": value, "sd": 0.01, "pooled": value} for key in METRICS},
        "stages": [
            {
                "stage": n,
                "labeled": 10.0 * n,
                "runs": 5,
                "accepted": 4,
                "test": {k: v - 0.1 * (stages - n) for k, v in figures.items()},
            }
            for n in range(1, stages + 1)
        ],
        "difference": part and {key: {**part, "visible": 0.028, "standard_error": 0.01, "runs": 5} for key in METRICS},
    }


@pytest.fixture
def content():
    return {
        "classes": ["<script>", "b"],
        "items": 60,
        "groups": 20,
        "runs": 12,
        "finished": 10,
        "reference": "chain",
        "verdicts": ["The chain & co. helped."],
        "arms": [
            arm("chain", 0.7, stages=3),
            arm("single_long", 0.65, difference=0.05),
            {**arm("kd", 0.0), "metrics": None, "labels": None, "seconds": None, "stages": [], "runs": 0},
        ],
        "failures": [{"arm": "kd", "repeat": 0, "fold": 1, "seed": 0, "error": "ValueError: <img src=x>"}],
    }


def test_what_a_page_needs_is_asked_for(monkeypatch):
    genuine = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == missing:
            raise ImportError(name)
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for missing in ("jinja2", "matplotlib"):
        with pytest.raises(ImportError, match=rf"{missing}: expected for the report, .*monai-weckd\[report\]"):
            check_page()


def test_page_tells_the_figures_and_escapes_names(content):
    about = {"synthetic": True, "dataset_dir": "</td><script>alert(1)</script>", "folds": 5}
    page = comparison_page(content, about=about)
    assert "<strong>The chain &amp; co. helped.</strong>" in page
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;img src=x&gt;" in page
    assert "Synthetic images." in page
    text = re.sub(r"<[^>]+>", " ", page)
    assert "+5.0 +3.0 to +7.0 2.8" in " ".join(text.split())
    assert "10 of 12 runs are finished, 1 failed" in text
    assert "4 of 5" in text
    # nothing is loaded from anywhere
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=\"(?!data:image/svg\+xml;base64,)", page)
    assert not re.search(r"https?://", page)


def test_page_of_a_comparison_with_nothing_finished(content):
    empty = {**content["arms"][2], "difference": None}
    page = comparison_page({**content, "arms": [empty], "failures": []}, about={"synthetic": False})
    assert "Not available: no other arm has a run of the same split and seed as chain." in page
    assert "Not available: no finished arm has several stages." in page
    assert "Synthetic images." not in page
    assert "Failures" not in page


def capture(monkeypatch, draw, *args):
    kept = []
    monkeypatch.setattr(comparison, "figure_bytes", lambda figure, kind: kept.append(figure))
    draw(*args)
    return kept[0]


def test_differences_are_drawn_in_points_from_the_top(monkeypatch, content):
    arms = [arm("single_long", 0.6, difference=0.05), arm("first", 0.5, difference=-0.1)]
    arms[1]["difference"]["balanced_accuracy"]["interval"] = None
    [axes] = capture(monkeypatch, draw_differences, arms, "chain").axes
    points = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"}
    assert points == {1: pytest.approx(5.0), 0: pytest.approx(-10.0)}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "single_long"]
    [interval] = axes.collections
    assert interval.get_segments()[0][:, 0] == pytest.approx([3.0, 7.0])
    assert axes.get_xlabel() == "chain minus arm, points of balanced accuracy"


def test_stages_are_drawn_against_single_models(monkeypatch, content):
    chain, single, _ = content["arms"]
    [axes] = capture(monkeypatch, draw_stages, [chain], [chain, single]).axes
    curve, control = axes.lines
    assert curve.get_xdata().tolist() == [1, 2, 3]
    assert curve.get_ydata() == pytest.approx([0.5, 0.6, 0.7])
    assert control.get_ydata()[0] == pytest.approx(0.65)
    assert [text.get_text() for text in axes.texts] == ["single_long"]


def test_page_of_findings_is_about_the_macro_auc(monkeypatch, content):
    words = {"balanced_accuracy": "macro_auc", "accuracy": "macro_average_precision", "ece": "macro_ece"}
    for one in content["arms"]:
        for part in (one, *one["stages"]):
            for key in ("metrics", "difference", "test"):
                if part.get(key):
                    kept = {name: value for name, value in part[key].items() if name != "macro_auc"}
                    part[key] = {words.get(name, name): value for name, value in kept.items()}
    page = comparison_page({**content, "findings": True}, about={"synthetic": False})
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "2 findings, of which an image may show several" in text
    assert "Macro AUC Average precision F1 Calibration error (ECE)" in text
    assert "alanced accuracy" not in page
    arms = [one for one in content["arms"] if one["difference"]]
    [axes] = capture(monkeypatch, draw_differences, arms, "chain", "macro_auc").axes
    assert axes.get_xlabel() == "chain minus arm, points of macro AUC"
