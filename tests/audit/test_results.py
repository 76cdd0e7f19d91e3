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

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from monai_weckd.audit.results import RunResults, measure_subgroup, read_run
from monai_weckd.data.datalist import Datalist
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.utils.records import sealed_json
from monai_weckd.utils.tables import table_text

CLASSES = ("cat", "dog")
COLUMNS = ("id", "group", "split", "label", "predicted", "probability_dog", "probability_cat")


def make_items(count):
    return [{"id": f"{i}.png", "image": "", "group": f"g{i // 2}", "label": i % 2} for i in range(count)]


def write_run(folder, rows, classes=("dog", "cat")):
    table = [
        dict(zip(COLUMNS, (name, "g", split, "cat", "cat", 1 - cat, cat), strict=True)) for name, split, cat in rows
    ]
    (folder / "predictions.csv").write_text(table_text(COLUMNS, table))
    (folder / "chain.json").write_text(sealed_json({"classes": list(classes)}, indent=1))


def test_the_test_split_is_read_in_the_order_of_the_classes(tmp_path):
    write_run(tmp_path, [("0.png", "val", 0.5), ("1.png", "test", 0.75), ("gone.png", "test", 0.1)])
    run = read_run(tmp_path, Datalist(make_items(4), CLASSES))
    assert run == RunResults("test", {"1.png": [0.75, 0.25]}, 1)


def test_without_a_test_split_it_is_validation(tmp_path):
    write_run(tmp_path, [("0.png", "val", 0.5)])
    assert read_run(tmp_path, Datalist(make_items(4), CLASSES)).split == "validation"


@pytest.mark.parametrize(
    ("rows", "classes", "message"),
    [
        (None, None, "run: expected the output folder of a finished training, got .* without predictions.csv"),
        ([], ("dog", "cat"), "run: expected predictions of test or validation images in .*, got none"),
        ([("x.png", "test", 1.0)], ("dog", "cat"), "run: expected predictions of labeled images .* first 'x.png'"),
        ([("0.png", "test", 1.0)], ("dog", "cow"), r"run: expected a training on the class names \['cat', 'dog'\]"),
    ],
)
def test_another_folder_is_refused(tmp_path, rows, classes, message):
    if rows is not None:
        write_run(tmp_path, rows, classes)
    with pytest.raises(ValueError, match=message):
        read_run(tmp_path, Datalist(make_items(4), CLASSES))


def measured(right, groups=6):
    """Measure two images of each group, of which the listed positions are right."""
    items = make_items(2 * groups)
    sure = [[0.9, 0.1], [0.1, 0.9]]
    found = {
        item["id"]: sure[item["label"] if place in right else 1 - item["label"]] for place, item in enumerate(items)
    }
    return measure_subgroup(RunResults("test", found), items)


def test_the_interval_is_over_groups():
    found = measured(range(9))
    assert (found["images"], found["groups"], found["accuracy"]["value"]) == (12, 6, 0.75)
    low, high = found["accuracy"]["interval"]
    assert 0 < low < 0.75 < high <= 1
    # the same images, each of its own group, say more
    items = [{**item, "group": item["id"]} for item in make_items(12)]
    rows = {
        item["id"]: [0.9, 0.1] if (place < 9) == (item["label"] == 0) else [0.1, 0.9]
        for place, item in enumerate(items)
    }
    alone = measure_subgroup(RunResults("test", rows), items)["accuracy"]["interval"]
    assert alone[1] - alone[0] < high - low


@pytest.mark.parametrize(("right", "interval"), [(range(12), [0.025 ** (1 / 6), 1]), ((), [0, 1 - 0.025 ** (1 / 6)])])
def test_all_right_is_not_sure_to_be_right(right, interval):
    assert measured(right)["accuracy"]["interval"] == pytest.approx(interval)


def test_few_groups_have_no_interval():
    found = measured(range(5), groups=4)
    assert found["accuracy"] == {"value": 0.625, "interval": None}
    assert measured(range(5), groups=5)["balanced_accuracy"]["interval"] is not None


def test_a_class_of_one_group_leaves_the_balanced_accuracy_without_an_interval():
    items = [{"id": f"{i}", "group": f"{i}", "label": int(i == 0)} for i in range(8)]
    found = measure_subgroup(RunResults("test", {item["id"]: [0.9, 0.1] for item in items}), items)
    assert found["balanced_accuracy"] == {"value": 0.5, "interval": None}
    assert found["accuracy"]["interval"] is not None


def finding_run(count=40, *, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1, 0, 1], (count, 2), p=[0.2, 0.4, 0.4])
    probabilities = np.clip(0.5 + 0.2 * (labels > 0) - 0.1 + rng.normal(0, 0.15, labels.shape), 0, 1)
    items = [{"id": f"{i}", "group": f"g{i // 2}", "label": label.astype(np.float32)} for i, label in enumerate(labels)]
    found = {item["id"]: row.tolist() for item, row in zip(items, probabilities, strict=True)}
    return RunResults("test", found, findings=("mass", "edema"), thresholds=[0.4, 0.6]), items, labels, probabilities


def test_each_finding_is_measured_where_it_is_known():
    run, items, labels, probabilities = finding_run()
    found = measure_subgroup(run, items)
    for place, (name, limit) in enumerate(zip(run.findings, run.thresholds, strict=True)):
        weight, truth, scores = labels[:, place] >= 0, labels[:, place] == 1, probabilities[:, place]
        own = found["classes"][name]
        assert own["images"] == weight.sum()
        assert own["groups"] == len({item["group"] for item, known in zip(items, weight, strict=True) if known})
        assert own["auc"]["value"] == pytest.approx(roc_auc_score(truth, scores, sample_weight=weight))
        assert own["f1"]["value"] == pytest.approx(f1_score(truth, scores >= limit, sample_weight=weight))
        low, high = own["auc"]["interval"]
        assert low < own["auc"]["value"] < high
    mean = np.mean([own["auc"]["value"] for own in found["classes"].values()])
    assert found["auc"]["value"] == pytest.approx(mean)


def test_a_finding_of_one_group_or_ranked_without_fault_has_no_interval():
    run, items, labels, _ = finding_run()
    perfect = {item["id"]: (label > 0).astype(float).tolist() for item, label in zip(items, labels, strict=True)}
    first = next(place for place, label in enumerate(labels) if label[1] == 1)
    rare = [{**item, "label": np.array([item["label"][0], float(place == first)])} for place, item in enumerate(items)]
    found = measure_subgroup(replace(run, probabilities=perfect), rare)["classes"]
    assert found["mass"]["auc"] == {"value": 1.0, "interval": None}
    assert found["edema"]["auc"]["interval"] is None
    found = measure_subgroup(run, [item for item in items if item["label"][0] == 1])["classes"]
    assert found["mass"]["auc"] == {"value": None, "interval": None}


def test_findings_are_read_in_the_order_of_the_data_with_their_thresholds(tmp_path):
    columns = ["id", "group", "split", "label_edema", "label_mass", "probability_edema", "probability_mass"]
    rows = [dict(zip(columns, ("0.png", "g", "test", 1, "", 0.75, 0.25), strict=True))]
    (tmp_path / "predictions.csv").write_text(table_text(columns, rows))
    chain = {"classes": ["edema", "mass"], "findings": True, "final": {"thresholds": [0.4, None]}}
    (tmp_path / "chain.json").write_text(sealed_json(chain, indent=1))
    items = [{"id": "0.png", "image": "", "group": "g", "label": np.array([-1.0, 1.0])}]
    run = read_run(tmp_path, Datalist(items, ("mass", "edema"), findings=True))
    assert run.probabilities == {"0.png": [0.25, 0.75]}
    assert (run.findings, run.thresholds) == (("mass", "edema"), [None, 0.4])
    with pytest.raises(
        ValueError, match=r"run: expected a training on the class names \['mass', 'edema'\], got the find"
    ):
        read_run(tmp_path, Datalist([{**items[0], "label": 0}], ("mass", "edema")))


def test_splits_are_those_of_the_plan(tmp_path):
    write_run(tmp_path, [("0.png", "test", 0.5)])
    plan = ChainPlan(CLASSES, PlanSettings(), train=("1.png", "2.png"), test=("0.png",))
    (tmp_path / "plan.json").write_text(plan.to_json())
    run = read_run(tmp_path, Datalist(make_items(4), CLASSES))
    assert run.splits == {"1.png": "train", "2.png": "train", "0.png": "test"}


def test_a_subgroup_that_was_not_tested_has_no_result():
    assert measure_subgroup(RunResults("test", {"x": [1.0, 0.0]}), make_items(4)) is None
