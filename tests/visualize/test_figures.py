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

from xml.etree import ElementTree

import pytest
from reported_run import Run
from scipy import stats

from monai_weckd.visualize import figures


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def capture(monkeypatch, function, *args, **kwargs):
    kept = []
    monkeypatch.setattr(figures, "svg_bytes", kept.append)
    function(*args, **kwargs)
    return kept[0]


def curves(axes, name):
    """Return the points of the lines from the one with this label up to the next label."""
    points, found = [], False
    for line in axes.lines:
        label = line.get_label()
        found = label == name or (found and label == "_nolegend_")
        if found:
            points += [tuple(map(float, point)) for point in line.get_xydata()]
    return points


def test_learning_curves_draw_the_history(run, monkeypatch):
    epochs, stages = run.history["epochs"], run.chain["stages"]
    figure = capture(monkeypatch, figures.learning_curves_svg, epochs, stages=stages)
    losses, validation, temperature = figure.axes
    assert curves(losses, "total") == [(epoch["epoch"], epoch["loss"]) for epoch in epochs]
    assert curves(losses, "distillation") == [(epoch["epoch"], epoch["distillation_loss"]) for epoch in epochs[4:]]
    expected = [(number, pytest.approx(0.05 * number)) for number in range(1, 13, 2)]
    assert curves(validation, "balanced accuracy") == expected
    assert curves(validation, "epoch kept") == [(number, pytest.approx(0.05 * number)) for number in (3, 7, 11)]
    assert curves(temperature, "temperature") == [(epoch["epoch"], epoch["temperature"]) for epoch in epochs[4:]]
    assert [text.get_text() for text in losses.texts] == ["stage 1", "stage 2\nrejected", "stage 3"]
    boundaries = [line.get_xdata()[0] for line in temperature.lines if line.get_color() == figures._GRAY]
    assert boundaries == [0.5, 4.5, 8.5]
    assert temperature.get_xlim() == (0.5, 12.5)


def test_without_validation_there_is_no_panel_of_it(run, monkeypatch):
    epochs = [{**epoch, "val": None} for epoch in run.history["epochs"]]
    figure = capture(monkeypatch, figures.learning_curves_svg, epochs, stages=run.chain["stages"])
    losses, temperature = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == ["training loss", "temperature"]
    assert curves(losses, "total") == [(epoch["epoch"], epoch["loss"]) for epoch in epochs]
    assert curves(temperature, "temperature") == [(epoch["epoch"], epoch["temperature"]) for epoch in epochs[4:]]


def test_the_kept_epoch_is_marked_on_the_metric_of_the_gate(run, monkeypatch):
    stages = run.chain["stages"]
    for stage in stages:
        stage["gate"]["metric"] = "val_macro_auc"
    figure = capture(monkeypatch, figures.learning_curves_svg, run.history["epochs"], stages=stages)
    assert curves(figure.axes[1], "epoch kept") == [(number, pytest.approx(0.07 * number)) for number in (3, 7, 11)]


def test_two_epochs_have_whole_numbers(run, monkeypatch):
    figure = capture(monkeypatch, figures.learning_curves_svg, run.history["epochs"][:2], stages=run.chain["stages"])
    assert all(tick == int(tick) for tick in figure.axes[2].get_xticks())


def test_pictures_are_svg(run):
    picture = figures.learning_curves_svg(run.history["epochs"], stages=run.chain["stages"])
    assert ElementTree.fromstring(picture).tag.endswith("svg")


@pytest.mark.parametrize(("right", "count"), [(0, 1), (3, 7), (40, 40)])
def test_the_interval_of_a_bin_is_that_of_wilson(right, count):
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert figures._wilson(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-4)
