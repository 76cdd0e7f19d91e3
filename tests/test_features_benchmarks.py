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

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_runs import OTOSCOPY
from PIL import Image

from monai_weckd.bundle.config import BundleConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import per_patient, site_chains, sites
from benchmarks.conformal import COVERAGES, set_figures
from benchmarks.few_labels import Fold, least_error, measure, table


def test_sets_hold_the_true_class_as_often_as_asked_for():
    random = np.random.default_rng(0)
    labels = np.arange(2000) % 2
    features = torch.from_numpy(random.normal(labels[:, None], 1.5, (2000, 4))).float()
    groups = (np.arange(2000) // 4).astype(str)
    fold = Fold(features, labels, groups, np.arange(1000), np.arange(1000, 2000))
    found = set_figures(fold, fold.train)
    for coverage in COVERAGES:
        figures = found[f"{coverage:g}"]
        assert abs(figures["patients"] - coverage) < 0.04
        assert figures["images"] == pytest.approx(figures["patients"])  # groups of one size
        assert figures["size"] == pytest.approx(2 - figures["single"])
        assert figures["calibrated_on"] == 250
    assert found["0.8"]["size"] < found["0.95"]["size"]


def test_a_chain_in_memory_has_the_labels_of_its_stages():
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    features = torch.from_numpy(random.normal(labels[:, None], 0.3, (200, 8))).float()
    fold = Fold(features, labels, np.arange(200).astype(str), np.arange(100), np.arange(100, 200))
    *_, (labeled, _, probabilities) = fold.chain("herding", 5, 0, stages=4)
    assert len(set(labeled)) == 20
    assert max(labeled) < 100
    assert (probabilities[100:].argmax(1) == labels[100:]).mean() > 0.9


def test_every_figure_has_its_counterpart_without_the_bound():
    random = np.random.default_rng(0)
    labels = np.arange(120) % 2
    features = torch.from_numpy(random.normal(labels[:, None], 2, (120, 6))).float()
    features[:, 0] = features[:, 0] ** 9  # the bound shows
    found = measure((features, labels, np.arange(120).astype(str)), 1, ["5 %"], unbounded=True)
    assert len(found) == 5
    assert all(
        {"balanced_accuracy", "unbounded"} <= fold[name].keys() for fold in found for name in ("all", "5 of each class")
    )
    assert any(fold["all"]["balanced_accuracy"] != fold["all"]["unbounded"] for fold in found)
    for fold in found:
        assert len(fold["all"]["predicted"]) == len(fold["test"]) == 24
        right = np.array(list(fold["all"]["predicted"]), dtype=int) == labels[fold["test"]]
        recalls = [right[labels[fold["test"]] == label].mean() for label in (0, 1)]
        assert fold["all"]["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    lines = table(found)
    assert len({line.count("|") for line in lines}) == 1


def test_balanced_labels_are_equally_many_of_each_class(monkeypatch):
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    fold = Fold(torch.zeros(100, 2), labels, np.arange(100).astype(str), np.arange(0, 100), np.arange(0))
    monkeypatch.setattr(Fold, "evaluate", lambda self, labeled: (labeled, None))
    stages = list(fold.balanced(9, 0))
    assert [np.bincount(labels[labeled]).tolist() for labeled in stages] == [[3, 3, 3], [6, 6, 6], [9, 9, 9]]
    assert set(stages[0]) < set(stages[1]) < set(stages[2])


@pytest.mark.parametrize("count", [200, 800])
def test_the_least_calibration_error_is_that_of_chance(count):
    assert least_error(np.ones(count)) == 0
    # the mean distance of a share from 1/2, of a normal distribution
    assert least_error(np.full(count, 0.5)) == pytest.approx((0.5 / np.pi / count) ** 0.5, rel=0.3)


def test_the_error_of_a_test_figure_is_that_of_its_groups():
    labels = np.arange(400) % 2
    right = np.random.default_rng(0).random(400) < 0.8
    probabilities = np.eye(2)[np.where(right, labels, 1 - labels)]
    items = np.arange(400)
    alone = Fold(torch.zeros(400, 1), labels, items.astype(str), items, items)
    recalls = np.array([right[labels == label].mean() for label in (0, 1)])
    binomial = np.sqrt((recalls * (1 - recalls) / 200).sum()) / 2
    assert alone.error(probabilities) == pytest.approx(binomial, rel=0.15)
    # eight copies of each image are one image
    copies = np.repeat(np.arange(50), 8).astype(str)
    ears = Fold(torch.zeros(400, 1), np.repeat(labels[:50], 8), copies, items, items)
    assert ears.error(np.repeat(probabilities[:50], 8, axis=0)) > 2 * alone.error(probabilities)


@pytest.mark.parametrize("skewed", [False, True])
def test_a_group_is_at_one_site(skewed):
    rng = np.random.default_rng(0)
    group = rng.integers(0, 60, 300)
    labels = group % 4
    site = sites.divide(labels, group.astype(str), 0, skewed=skewed)
    assert len(set(zip(group.tolist(), site.tolist(), strict=True))) == len(set(group.tolist()))
    own = (site == labels % sites.SITES).mean()
    assert own > 0.7 if skewed else own < 0.6


def test_sites_are_measured_together_and_alone():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 60)
    features = torch.from_numpy(rng.standard_normal((180, 8)) + 3 * np.eye(3, 8)[labels]).float()
    groups = np.array([f"g{number}" for number in range(180)])
    folds = sites.measure((features, labels, groups), ["20 %"])
    figures = folds[0]["20 %"]
    assert figures["exact"]["balanced_accuracy"] > 0.8
    assert sum(one["labels"] for one in figures["skewed"]) == sum(one["labels"] for one in figures["even"]) > 0
    assert sites.score(figures, "even: best site") >= sites.score(figures, "even: mean site")
    header, _, row = sites.table(folds)
    assert header.count("|") == row.count("|")


def test_devices_show_an_image_differently():
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[8:24, 8:24] = 100
    image = Image.fromarray(pixels)
    same, dark, blurred = (np.asarray(site_chains.device(image, number)).astype(int) for number in range(3))
    assert (same == pixels).all()
    assert dark[16, 16].tolist() == pytest.approx([84, 70, 56], abs=1)
    assert 0 < blurred[16, 7].max() < 100 < blurred[16, 16].min() <= 130


def test_a_row_has_the_means_of_an_arm_over_the_folds_of_a_division():
    def run(division, fold, value):
        arms = {arm: {"balanced_accuracy": value} for arm in site_chains.ARMS if not arm.endswith(" site")}
        alone = {f"site_{place}": {"balanced_accuracy": value - 0.1 * place} for place in range(sites.SITES)}
        return {"division": division, "fold": fold, **arms, **alone}

    # two trainings of the first fold
    results = [run("even", 0, 0.4), run("even", 1, 0.7), run("even", 0, 0.6), run("skewed", 0, 0.6)]
    assert site_chains.score(results[0], "best site") == 0.4
    assert site_chains.score(results[0], "mean site") == pytest.approx(0.3)
    del results[0]["averaging"]
    header, _, *rows = site_chains.table(results)
    cells = {row.strip("| ").split(" | ")[1]: row.strip("| ").split(" | ")[2:] for row in rows}
    assert cells["chain: all"] == ["2", "+60.0 ± 10.0", "+0.0 ± 0.0", "+0.0 ± 0.0"]
    assert cells["mean site"] == ["2", "+50.0 ± 10.0", "-10.0 ± 0.0", "-10.0 ± 0.0"]
    assert {header.count("|")} == {row.count("|") for row in rows}
    assert set(cells) == set(site_chains.ARMS) - {"averaging"}


def test_an_ablated_site_lacks_one_part():
    config = BundleConfig(OTOSCOPY, overlays=["scratch.json"])
    left = {}
    for arm, lacks in {**site_chains.ABLATED, "whole": frozenset()}.items():
        party = site_chains.AblatedParty({"changes": {}}, lacks)
        left[arm] = set(party._gentle(config))
    assert left.pop("whole") == {"learning_rate", "distillation_weight_end"}
    assert left == {
        "chain: all, plain loss, full rate": {"distillation_weight_end"},
        "chain: all, plain loss": {"learning_rate", "distillation_weight_end"},
        "chain: all, full rate": {"distillation_weight_end"},
        "chain: all, fading teachers": {"learning_rate"},
    }
    for lacks in site_chains.ABLATED.values():
        if "balance" in lacks:  # the configuration is not touched
            site_chains.AblatedParty({"changes": {}}, lacks)._balance(None)


def test_patients_with_two_labels_are_left_out_and_the_others_pooled():
    features = torch.arange(12.0).reshape(6, 2)
    labels, groups = np.array([0, 1, 0, 1, 1, 0]), np.array(["b", "a", "b", "a", "c", "c"])
    found = per_patient.patients_of(features, labels, groups)
    assert found.left_out == 1
    assert found.labels.tolist() == [1, 0]
    assert torch.equal(found.pooled, torch.stack([features[[1, 3]].mean(0), features[[0, 2]].mean(0)]))


def test_both_ways_of_several_images_get_the_same_labels_and_an_interval():
    random = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 3)
    labels = patients % 2
    features = torch.from_numpy(random.normal(3.0 * labels[:, None], 1.0, (120, 4))).float()
    data = per_patient.patients_of(features, labels, patients.astype(str))
    figures = list(per_patient.measure(data, budgets=(8, 99)))
    assert len(figures) == 10
    assert {one["labels"] for one in figures} == {8}
    assert all(one["pooled"] > 0.8 and one["each"] > 0.8 for one in figures)
    (row,) = per_patient.table(figures)[2:]
    assert row.startswith("| 8 | ")
    # folds of 3/4 to 1/4 in place of independent ones: 1/10 + 1/4 in place of 1/10
    mean, low, high = per_patient.interval(np.array([0.0, 0.2] * 5))
    assert mean == pytest.approx(0.1)
    assert high - low == pytest.approx(2 * 2.2622 * (0.1**2 * 10 / 9 * 0.35) ** 0.5, rel=1e-4)


def test_a_chain_over_sites_is_compared_on_the_items_of_its_test():
    labels, groups = np.arange(120) % 2, np.array([f"g{number // 2}" for number in range(120)])
    parted = site_chains.folds(labels, groups, inner=False, items=None)
    assert sorted(np.concatenate([test for _, test in parted])) == list(range(120))
    for train, test in site_chains.folds(labels, groups, inner=True, items=None):
        assert set(train) | set(test) == set(parted[0][0])
    some = site_chains.folds(labels, groups, inner=False, items=60)
    assert len(some[0][0]) + len(some[0][1]) == 60
    results = []
    for number, (_, test) in enumerate(parted):
        right = "".join(map(str, labels[test]))
        wrong = "".join(str(1 - label) if place % 4 == 0 else str(label) for place, label in enumerate(labels[test]))
        arms = {"chain: all": {"predicted": wrong}, "pooled": {"predicted": right}, "averaging": {}}
        results.append({"division": "even", "fold": number, "seed": 0, "test": test.tolist(), **arms})
    _, _, row = site_chains.differences(results, labels, groups)  # averaging has no predictions
    division, arm, points, interval = row.strip("| ").split(" | ")
    assert (division, arm, float(points)) == ("even", "chain: all", pytest.approx(-25, abs=0.1))
    low, high = map(float, interval.split(" to "))
    assert low < -25 < high < 0
