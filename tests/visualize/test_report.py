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
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from monai.data import Dataset
from PIL import Image
from reported_run import HOSTILE, Run, arrays_of_test

from monai_weckd.metrics import bootstrap_intervals, classification_metrics
from monai_weckd.visualize import figures
from monai_weckd.visualize.gallery import save_error_gallery
from monai_weckd.visualize.report import write_report

NONE = "\N{EN DASH}"
SECTIONS = [
    "What was trained on what",
    "Results",
    "Learning curves",
    "Confusion matrix",
    "Calibration",
    "Most confident errors",
    "Cost",
    "Settings",
    "How to read this page, and its limits",
]


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


@pytest.fixture(scope="module")
def whole_page(tmp_path_factory):
    """The page of an unchanged run, for tests that only read."""
    return Run(tmp_path_factory.mktemp("run")).page()


class Reader(HTMLParser):
    """Collect what a page shows; fail where an element is not closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.texts, self.headings = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.mark.parametrize("name", ["plan.json", "chain.json", "history.json", "predictions.csv"])
def test_a_missing_file_is_named(run, name):
    (run.write() / name).unlink()
    with pytest.raises(
        ValueError, match=f"output_dir: expected the file {name} in .*, got none. Give the output folder"
    ):
        write_report(run.folder)


@pytest.mark.parametrize("name", ["plan.json", "chain.json", "history.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"classes": [', "expected JSON, got Expecting value"),
        (b"[1]", "expected an object, got list"),
        (b"{}", "expected the key '.*', got none"),
        (b"\xff\xfe", "expected UTF-8 text, got 'utf-8' codec"),
    ],
)
def test_a_corrupt_file_is_named(run, name, content, message):
    (run.write() / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{name}: {message}.* Write the file again\.$"):
        write_report(run.folder)


def drop(record, key):
    del record[key]


def set_accuracy(run):
    run.chain["final"]["test"] = {**run.chain["final"]["test"], "accuracy": 0.1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: drop(run.plan, "settings"), r"plan\.json: expected the key 'settings', got none"),
        (lambda run: run.chain.update(format=2), r"chain\.json: expected format 1, got 2\. Use the version"),
        (lambda run: run.chain.update(classes=["a", "b"]), r"chain\.json: expected the classes of plan\.json"),
        (
            lambda run: run.chain["final"].update(stage=9),
            r"chain\.json: expected the final stage among \[1, 2, 3\], got 9",
        ),
        (lambda run: drop(run.chain["stages"][1], "gate"), r"chain\.json: stages: expected the key 'gate', got none"),
        (lambda run: run.chain["stages"][1].update(gate=None), r"chain\.json: gate: expected an object, got NoneType"),
        (lambda run: drop(run.chain["label_budget"], "val"), r"chain\.json: label_budget: expected the key 'val'"),
        (lambda run: drop(run.chain["ledger"][0], "labels"), r"chain\.json: ledger: expected the key 'labels'"),
        (lambda run: drop(run.chain["final"], "test"), r"chain\.json: final: expected the key 'test'"),
        (lambda run: drop(run.history["epochs"][3], "temperature"), r"history\.json: epochs: expected the key 'temp"),
        (
            lambda run: [drop(row, "predicted") for row in run.rows],
            r"predictions\.csv: expected the column 'predicted'",
        ),
        (
            lambda run: [drop(row, "probability_normal") for row in run.rows],
            r"predictions\.csv: expected the column 'probability_normal', got none",
        ),
        (lambda run: run.rows[20].update(label="dog"), r"predictions\.csv: expected one of the classes .* as label of"),
        (
            lambda run: run.rows[20].update(predicted=""),
            r"as predicted of 'normal/20.png', got ''|as predicted of .* got ''",
        ),
        (
            lambda run: run.rows[20].update(probability_normal="?"),
            r"predictions\.csv: could not convert string to float",
        ),
        (
            lambda run: run.rows[20].update(probability_normal=7),
            r"predictions\.csv: probabilities: expected rows in 0..1",
        ),
        (set_accuracy, r"predictions\.csv: expected the final test accuracy of chain\.json, 0\.100, got 0\."),
    ],
)
def test_files_that_do_not_fit_are_refused(run, change, message):
    change(run)
    with pytest.raises(ValueError, match=message):
        run.page()


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_names_the_extra(run, monkeypatch, package):
    run.write()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ImportError, match=rf"^{package}: expected for the report, got no such package. Install monai-weckd"
    ):
        write_report(run.folder)


def test_the_page_loads_nothing(whole_page):
    reader = Reader(whole_page)
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "link", "iframe", "object", "svg", "form", "a"}
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in reader.tags if tag == "img")
    assert "url(" not in whole_page
    assert "@import" not in whole_page
    assert "http" not in re.sub(r'http-equiv|base64,[^"]*', "", whole_page)
    policy = next(attrs["content"] for _, attrs in reader.tags if "http-equiv" in attrs)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_page_has_its_sections_in_order(whole_page):
    assert Reader(whole_page).headings == SECTIONS


def test_the_page_is_accessible(whole_page):
    reader = Reader(whole_page)
    assert ("html", {"lang": "en"}) in reader.tags
    assert all(len(attrs["alt"]) > 20 for tag, attrs in reader.tags if tag == "img")
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["aria-labelledby"] for tag, attrs in reader.tags if tag == "table"} <= set(ids)
    assert all("scope" in attrs for tag, attrs in reader.tags if tag == "th")


def test_names_from_the_data_are_escaped(whole_page):
    assert '<b>&"' not in whole_page
    assert "<script" not in whole_page
    text = Reader(whole_page).text
    assert text.count(HOSTILE) >= 4
    assert f"scan_{HOSTILE}.dcm" in text
    assert "<script>alert(1)</script>" in text


def test_a_file_name_that_is_not_utf8_does_not_break_the_page(run):
    run.plan["skipped"] = ["scan_\udcff.dcm"]
    assert r"scan_\udcff.dcm" in run.page()


def test_the_page_states_who_saw_what(whole_page):
    text = Reader(whole_page).text
    assert "Training labels 93" in text
    assert "Validation labels 10" in text
    assert "Test items 40" in text
    assert "Unused items 2" in text
    assert "Skipped files 1" in text
    assert f"shard 1 31 validation {NONE} 10" in text
    assert "2 62 40 238" in text  # stage, labeled items, groups, pool


def test_results_mark_decisions_and_the_final_model(whole_page):
    text = Reader(whole_page).text
    assert "1 accepted 0.700 0.610" in text
    assert "2 rejected 0.700, before 0.650 0.620" in text
    assert "3 final accepted 0.700, before 0.650 0.630" in text
    assert "(validation balanced accuracy)" in text
    assert "stage_3/model.pt" in text


def test_the_interval_is_the_bootstrap_over_groups(run, whole_page):
    text = Reader(whole_page).text
    probabilities, labels = arrays_of_test(run.rows, run.classes)
    groups = [row["group"] for row in run.rows if row["split"] == "test"]
    low, high = bootstrap_intervals(probabilities, labels, groups=groups)["balanced_accuracy"]
    value = classification_metrics(probabilities, labels)["balanced_accuracy"]
    assert f"Balanced accuracy {value:.3f} {low:.3f} to {high:.3f}" in text
    assert "40 test items from 20 groups" in text
    assert "bootstrap over groups" in text
    for row in run.rows:
        del row["group"]
    alone = bootstrap_intervals(probabilities, labels, groups=[row["id"] for row in run.rows if row["split"] == "test"])
    low, high = alone["balanced_accuracy"]
    text = Reader(run.page()).text
    assert f"Balanced accuracy {value:.3f} {low:.3f} to {high:.3f}" in text
    assert "bootstrap over items" in text


def test_the_confusion_matrix_counts_test_items(run, whole_page):
    text = Reader(whole_page).text
    rows = [row for row in run.rows if row["split"] == "test" and row["label"] == "normal"]
    counts = [sum(row["predicted"] == name for row in rows) for name in run.classes]
    assert f"normal {' '.join(map(str, counts))} {len(rows)} {counts[0] / len(rows):.3f}" in text


def test_only_phantoms_have_a_banner(run, whole_page):
    banner = "prove nothing about any medical task"
    run.chain["settings"]["synthetic"] = True
    assert banner in Reader(run.page()).text
    assert banner not in Reader(whole_page).text
    run.chain["settings"]["synthetic"] = False
    assert banner not in Reader(run.page()).text


def test_what_was_not_used_is_told(run, whole_page):
    run.chain["settings"]["passed_over"] = "columns not used: <age>"
    assert Reader(run.page()).text.count("not used: columns not used: <age>") == 1
    assert "not used:" not in Reader(whole_page).text


def test_items_of_several_images_are_told(run, whole_page):
    run.chain["settings"]["item_level"] = "patient"
    assert "Each item is all images of one patient" in Reader(run.page()).text
    assert "Each item is" not in Reader(whole_page).text


def test_the_result_is_logged_with_the_place_of_the_page(run, caplog):
    with caplog.at_level("INFO", "monai_weckd.visualize.report"):
        run.page()
    path = run.folder / "report.html"
    tested = [row for row in run.rows if row["split"] == "test"]
    right = sum(row["label"] == row["predicted"] for row in tested)
    stage = run.chain["final"]["stage"]
    expected = f"the model of stage {stage} is right on {right} of {len(tested)} test images: accuracy 0."
    assert caplog.messages[0].startswith(expected)
    assert caplog.messages[0].endswith(f". Report: {path}")


def test_absent_parts_say_why(tmp_path):
    run = Run(tmp_path, num_test=0)
    run.rows, run.history["epochs"] = run.rows[:10], []
    text = Reader(run.page()).text
    assert text.count("Not available: predictions.csv lists no test item") == 4
    assert "Not available: history.json lists no epoch" in text


def test_a_run_without_a_gallery_says_so(whole_page):
    assert "Not available: the output folder has no errors/errors.json" in Reader(whole_page).text


def without(run, *lists):
    """Take lists out of a run, as if nothing had been held out for them."""
    run.rows = [row for row in run.rows if row["split"] not in lists]
    for key in lists:
        run.plan[key] = []
        run.chain["stages"] = [{**stage, key: None} for stage in run.chain["stages"]]
    if "test" in lists:
        run.chain["final"]["test"] = None
    if "val" in lists:
        run.chain["label_budget"]["val"] = 0
        run.history["epochs"] = [{**epoch, "val": None} for epoch in run.history["epochs"]]
        gate = {"metric": None, "value": None, "previous": None, "tolerance": 0.0}
        run.chain["stages"] = [{**stage, "gate": gate, "accepted": True} for stage in run.chain["stages"]]
    return run


def test_a_run_without_validation_shows_its_test_figures_alone(run):
    text = Reader(without(run, "val").page()).text
    assert "93 training labels and 0 validation labels. On 40 test items" in text
    assert "Validation labels 0 none: every stage is accepted, with the weights of its last epoch" in text
    assert "By stage. Weights of the final model" in text
    assert "Stage Decision Test Balanced accuracy" in text
    assert "3 final accepted no validation" in text
    assert "A circle marks" not in text
    assert "Wall time by stage Stage" in text
    assert "95% interval What the figure could have been" in text


def test_a_run_without_test_shows_its_validation_figures_alone(run):
    text = Reader(without(run, "test").page()).text
    assert "10 validation labels. Its final model is that of stage 3. No test items were held out" in text
    assert "Stage Decision Validation Balanced accuracy" in text
    assert "Test items 0 none" in text
    assert text.count("Not available: predictions.csv lists no test item") == 4
    assert "95% interval" not in text
    assert "Validation figures chose the epochs" in text


def test_a_run_with_neither_has_no_figures_and_says_so(run):
    reader = Reader(without(run, "val", "test").page())
    assert reader.headings == SECTIONS
    assert "93 training labels and no validation labels. Its final model is that of stage 3." in reader.text
    assert "Stage Decision 1 accepted no validation 2 accepted no validation 3 final accepted no" in reader.text
    assert "No figures All labels were for training, and nothing here measures the model." in reader.text
    for word in ("Balanced accuracy", "ECE", "validation included", "A circle"):
        assert word not in reader.text


def test_a_chain_of_one_stage_without_validation_has_a_page(run):
    stage = {**run.chain["stages"][0], "val": None, "test": None}
    stage["gate"] = {"metric": None, "value": None, "previous": None, "tolerance": 0.0}
    run.chain.update(stages=[stage], final={"stage": 1, "test": None})
    run.history["epochs"] = [{**epoch, "val": None} for epoch in run.history["epochs"][:4]]
    text = Reader(run.page()).text
    assert "in 1 stage:" in text
    assert "1 final accepted no validation Final model on the 40 test items" in text


def test_without_validation_the_page_shows_the_cross_validation(run):
    figures = {"labels": 11, "balanced_accuracy": 0.123, "accuracy": 0.234, "macro_f1": 0.345, "macro_auc": 0.456}
    figures.update(ece=0.567, penalty=10.0)
    for stage in run.chain["stages"]:
        stage.update(val=None, out_of_fold=figures)
    text = Reader(run.page()).text
    assert "Cross-validation Test" in text
    assert "Validation Cross" not in text
    assert "0.123 11 of 31 labels 0.234 0.345 0.456 0.567" in text
    assert "(11 of " in text
    assert "by a chain of solved heads, in 3 stages: each stage solves the head of a frozen network" in text
    assert "Learning curves Not available: a solved head has no epochs" in text


def test_without_test_items_the_page_tells_the_estimate(run):
    estimate = {
        "images": 77,
        "accuracy": {"value": 0.9, "interval": [0.8, 1.0]},
        "balanced_accuracy": {"value": 0.81, "interval": [0.7, 0.9]},
    }
    figures = {"labels": 11, "penalty": 10.0, "estimate": estimate}
    figures |= dict.fromkeys(("balanced_accuracy", "accuracy", "macro_f1", "macro_auc", "ece"), 0.5)
    for stage in without(run, "val", "test").chain["stages"]:
        stage.update(out_of_fold=figures)
    text = Reader(run.page()).text
    assert "on new groups is estimated at 0.810 (95% interval 0.700 to 0.900), from its confidence in 77 images" in text


def test_the_same_files_give_the_same_page_in_any_folder(run, whole_page):
    assert run.page() == whole_page


def test_global_state_of_matplotlib_stays(run):
    before = dict(matplotlib.rcParams)
    run.page()
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


@pytest.fixture
def run_with_gallery(tmp_path):
    """A run whose predictions a tiny network has made, with its gallery."""
    torch.manual_seed(0)
    run = Run(tmp_path)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    ).eval()
    dataset = Dataset([{"image": torch.rand(1, 12, 10)} for _ in run.rows])
    for item, row in zip(dataset, run.rows, strict=True):
        with torch.no_grad():
            probabilities = torch.softmax(network(item["image"][None]), 1)[0].tolist()
        row.update({f"probability_{name}": value for name, value in zip(run.classes, probabilities, strict=True)})
        row["predicted"] = run.classes[int(np.argmax(probabilities))]
    run.chain["final"]["test"] = classification_metrics(*arrays_of_test(run.rows, run.classes))
    save_error_gallery(network, dataset, run.rows, target_layer="1", output_dir=tmp_path, limit=3)
    return run


def test_the_gallery_is_on_the_page(run_with_gallery):
    reader = Reader(run_with_gallery.page())
    pictures = [attrs for tag, attrs in reader.tags if tag == "img" and "Grad-CAM" in attrs["alt"]]
    assert len(pictures) == 3
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in pictures)
    entries = json.loads((run_with_gallery.folder / "errors" / "errors.json").read_text(encoding="utf-8"))["errors"]
    for entry, picture in zip(entries, pictures, strict=True):
        assert entry["id"] in picture["alt"]
        assert f"Predicted {entry['predicted']} ( {entry['probability']:.3f}" in reader.text.replace("(", "( ")


def edit_errors(run, **changes):
    path = run.folder / "errors" / "errors.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["errors"][0].update(changes)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_gallery_of_another_run_is_not_shown(run_with_gallery):
    edit_errors(run_with_gallery, id="elsewhere.png")
    text = Reader(run_with_gallery.page()).text
    assert "Not available: errors/errors.json is of another run: predictions.csv does not list elsewhere.png" in text


@pytest.mark.parametrize("name", ["../secret.png", "../errors/01.png", "gone.png", "text.png", ""])
def test_only_pictures_of_the_gallery_can_be_shown(run_with_gallery, name):
    Image.new("RGB", (2, 2)).save(run_with_gallery.folder / "secret.png")
    (run_with_gallery.folder / "errors" / "text.png").write_text("no picture", encoding="utf-8")
    edit_errors(run_with_gallery, file=name)
    with pytest.raises(
        ValueError, match=rf"errors\.json: expected the name of a PNG file in .*, got '{re.escape(name)}'"
    ):
        run_with_gallery.page()


def test_a_corrupt_gallery_is_named(run_with_gallery):
    (run_with_gallery.folder / "errors" / "errors.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^errors\.json: expected JSON"):
        run_with_gallery.page()


def test_a_gallery_without_errors_says_so(run_with_gallery):
    path = run_with_gallery.folder / "errors" / "errors.json"
    path.write_text(json.dumps({"target_layer": "1", "errors": []}), encoding="utf-8")
    assert "No test item was misclassified." in Reader(run_with_gallery.page()).text


def test_the_package_ships_the_template():
    assert (Path(figures.__file__).parent / "report.html.jinja").is_file()
