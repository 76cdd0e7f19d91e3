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

"""Label several findings in one image, from the first answer to the export."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from monai_weckd.annotation import AnnotatedBundle, AnnotatedChain, AnnotationSession, take_labels
from monai_weckd.annotation.export import export_labels
from monai_weckd.annotation.labels_in import read_incoming
from monai_weckd.data import load_datalist
from monai_weckd.data.phantoms import make_phantom
from monai_weckd.data.phantoms.chest import CHEST_FINDINGS

CHEST = Path(__file__).resolve().parents[2] / "bundles" / "chest_xray_chain_classification"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_phantom("chest_xray", tmp_path_factory.mktemp("phantom") / "chest", items=48)


@pytest.fixture(scope="module")
def truth(images):
    """Return what each image shows, by its id."""
    datalist = load_datalist(images, findings=True)
    assert datalist.classes == CHEST_FINDINGS
    told = {item["id"]: dict(zip(CHEST_FINDINGS, item["label"], strict=True)) for item in datalist.items}
    return {key: {name: int(value) for name, value in one.items() if value >= 0} for key, one in told.items()}


def session_in(folder, images, names=CHEST_FINDINGS):
    bundle = AnnotatedBundle(
        CHEST, images, changes={"spatial_size": [64, 64]}, classes=names, cache_dir=Path(folder, "cache")
    )
    return AnnotationSession(AnnotatedChain(bundle, folder), images)


@pytest.fixture(scope="module")
def trained(images, truth, tmp_path_factory):
    """Return a session with a stage on half of the images; of every third, all but the first finding is unknown."""
    here = session_in(tmp_path_factory.mktemp("findings") / "output", images)
    here.chain.score(list(here.items.values()))
    for place, key in enumerate(sorted(here.items)[::2]):
        said = dict(truth[key]) if place % 3 else dict(list(truth[key].items())[:1])
        here.put_label(key, said, who="Ada")
    here.chain.learn(list(here.items.values()), here.labels)
    here.train()
    return here


def test_a_stage_learns_findings_and_says_what_it_thinks_of_each(trained, truth):
    [stage] = trained.state()["stages"]
    assert (stage["labeled"], stage["accepted"]) == (24, True)
    assert set(stage["validation"]) == {"macro_auc", "macro_average_precision", "macro_f1"}
    key = next(key for key in trained.items if key not in trained.labels)
    found = trained.predict(trained.item(key)["image"])
    assert [one["label"] for one in found["prediction"]] == list(CHEST_FINDINGS)
    assert [one["threshold"] for one in found["prediction"]] == trained.chain.thresholds
    called = [
        one["label"] for one in found["prediction"] if one["threshold"] is not None and one["score"] >= one["threshold"]
    ]
    assert found["label"] == "|".join(called)
    scores = np.array([one["score"] for one in found["prediction"]])
    assert found["entropy"] == pytest.approx(np.mean([-p * np.log(p) - (1 - p) * np.log(1 - p) for p in scores]))
    suggestion = trained.next()[0]
    assert "stands for uncertain images" in suggestion.reason
    assert suggestion.probabilities.shape == (len(CHEST_FINDINGS),)


def test_the_live_head_answers_for_each_finding(trained):
    live = trained.chain.live
    assert live is None or live.probabilities.shape == (48, len(CHEST_FINDINGS))
    trained.chain.learn(list(trained.items.values()), trained.labels)
    live = trained.chain.live
    assert live.probabilities.shape == (48, len(CHEST_FINDINGS))
    assert not np.allclose(live.probabilities.sum(axis=1), 1)  # findings do not exclude each other
    assert live.summary["labels"] == 24
    assert set(live.summary) == {"labels", "macro_auc", "thresholds"}


def test_the_state_counts_both_sides_of_each_finding(trained, truth):
    given = trained.labels
    state = trained.state()
    assert state["findings"]
    for name in CHEST_FINDINGS:
        assert state["labels"][name] == sum(f"{name}=1" in label for label in given.values())
        assert state["absent"][name] == sum(f"{name}=0" in label for label in given.values())
    assert sum(state["labels"].values()) + sum(state["absent"].values()) < len(given) * len(CHEST_FINDINGS)


def test_an_export_is_a_manifest_of_findings_and_comes_back_in(trained, images, tmp_path):
    output = tmp_path / "manifest.csv"
    counts = export_labels(images, trained.store.path, output)
    assert (counts["labeled"], counts["unlabeled"]) == (24, 24)
    with output.open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    for key, label in trained.labels.items():
        parts = dict(part.split("=") for part in label.split("|"))
        assert {name: rows[key][f"finding:{name}"] for name in CHEST_FINDINGS} == {
            name: parts.get(name, "") for name in CHEST_FINDINGS
        }
        assert rows[key]["labeled_by"] == "Ada"
    other = session_in(tmp_path / "other", images)
    assert take_labels(other, output) == (24, 0)
    assert other.labels == trained.labels
    key = next(iter(other.labels))
    other.put_label(key, dict.fromkeys(CHEST_FINDINGS, 1))
    found = read_incoming(other, output)
    assert (found.new, found.same, [one[0] for one in found.conflicts]) == ({}, 23, [key])


def test_a_finding_is_added_to_a_chain_that_exists(trained, images):
    more = session_in(trained.chain.output_dir, images, (*CHEST_FINDINGS, "new"))
    assert more.labels == trained.labels
    found = more.predict(next(iter(more.items.values()))["image"])["prediction"][-1]
    assert found["score"] < 0.01
    assert found["threshold"] is None
    content = json.loads((trained.chain.output_dir / "chain" / "chain.json").read_text())
    assert (content["classes"][-1], content["final"]["thresholds"][-1]) == ("new", None)


def test_validation_keeps_both_sides_of_a_finding_in_training(images, truth, tmp_path):
    here = session_in(tmp_path / "output", images)
    here.chain.val_fraction = 0.25
    with pytest.raises(ValueError, match=r"labels: expected labels in two groups or more of a finding that is present"):
        here.check_training()
    for key in sorted(here.items):
        here.put_label(key, truth[key])
    here.check_training()


def test_a_finding_is_added_while_people_label_and_is_unknown_in_earlier_labels(images, truth, tmp_path):
    here = session_in(tmp_path / "output", images, CHEST_FINDINGS[:2])
    first, second = sorted(here.items)[:2]
    here.put_label(first, dict.fromkeys(CHEST_FINDINGS[:2], 0))
    assert here.add_class("fracture", who="Ada") == ("fracture", True)
    here.put_label(second, {"fracture": 1})
    assert here.labels == {first: "|".join(f"{name}=0" for name in CHEST_FINDINGS[:2]), second: "fracture=1"}
    state = session_in(tmp_path / "output", images, CHEST_FINDINGS[:2]).state()
    assert (state["classes"], state["labels"]["fracture"]) == ([*CHEST_FINDINGS[:2], "fracture"], 1)
    lines = map(json.loads, (tmp_path / "output" / "labels.log").read_text().splitlines())
    assert [(line["who"], len(line["names"])) for line in lines if line["what"] == "findings"] == [
        (None, 2),
        ("Ada", 3),
    ]
