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

import csv
import io
from types import SimpleNamespace

import numpy as np
import pytest

from monai_weckd.compare.arms import ARMS
from monai_weckd.compare.folds import FoldSplit
from monai_weckd.compare.running import ArmRun
from monai_weckd.compare.store import RunStore
from monai_weckd.compare.summary import comparison_csv, summarize_comparison
from monai_weckd.engines.label_task import task_of
from monai_weckd.metrics import classification_metrics
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.visualize.comparison import comparison_figures, comparison_page

CLASSES = ("ill", "well")
LABELS = np.array([0, 1] * 10)
BUNDLE = SimpleNamespace(
    datalist=SimpleNamespace(classes=CLASSES, items=[{}] * 20),
    task=task_of(LabelKind(CLASSES)),
    groups={f"i{n}": f"g{n // 2}" for n in range(20)},
    solved=False,
)


def probabilities(wrong):
    """Return probabilities, (20, 2), whose first items are given the other class."""
    right = np.where(np.eye(2)[LABELS] == 1, 0.8, 0.2)
    right[:wrong] = 1 - right[:wrong]
    return right


def write(store, name, wrong, **more):
    """Write a finished run in which some items are wrong; returns the run."""
    run = ArmRun(ARMS[name], FoldSplit(0, 0, {}), 0, 1, f"digest of {name}")
    figures = classification_metrics(probabilities(wrong), LABELS)
    stage = {"stage": 1, "labeled": 8, "accepted": True, "test": figures, "seconds": 1.5}
    about = {"arm": name, "repeat": 0, "fold": 0, "seed": 0, "digest": run.digest}
    result = {
        **about,
        "labels": 8,
        "val_labels": 4,
        "seconds": 3.0,
        "cpu_seconds": 2.0,
        "stages": [stage],
        "test": figures,
        **more,
    }
    rows = [
        {
            "id": f"i{n}",
            "label": CLASSES[LABELS[n]],
            **{f"probability_{c}": p for c, p in zip(CLASSES, row, strict=True)},
        }
        for n, row in enumerate(probabilities(wrong))
    ]
    store.write(name, run.cell, result, rows=rows)
    return run


def test_arms_are_held_against_the_reference(tmp_path):
    store = RunStore(tmp_path)
    runs = [write(store, "chain", 2), write(store, "single_long", 6)]
    content = summarize_comparison(runs, BUNDLE, store)
    assert (content["runs"], content["finished"], content["items"], content["groups"]) == (2, 2, 20, 10)
    chain, single = content["arms"]
    assert (chain["name"], chain["difference"], chain["labels"]) == ("chain", None, 8)
    # 18 of 20 are right, and 14 of 20
    assert chain["metrics"]["accuracy"]["pooled"] == pytest.approx(0.9)
    assert single["difference"]["accuracy"]["value"] == pytest.approx(0.2)
    assert len(content["verdicts"]) == 1
    rows = list(csv.DictReader(io.StringIO(comparison_csv(content))))
    assert [(row["arm"], row["stage"], row["labels"]) for row in rows] == [
        ("chain", "1", "8"),
        ("chain", "final", "8"),
        ("single_long", "1", "8"),
        ("single_long", "final", "8"),
    ]
    assert float(rows[3]["accuracy"]) == pytest.approx(0.7)


@pytest.mark.parametrize("solved", [True, False])
def test_a_chain_is_held_against_the_control_of_its_kind(tmp_path, solved):
    store, titles = RunStore(tmp_path), {name: arm.title for name, arm in ARMS.items()}
    runs = [write(store, name, wrong) for name, wrong in (("chain", 2), ("solved", 4), ("single_long", 6))]
    verdicts = summarize_comparison(runs, SimpleNamespace(**{**vars(BUNDLE), "solved": solved}), store)["verdicts"]
    control = "solved" if solved else "single_long"
    pairs = [("chain", control), ("solved", "single_long")]
    assert len(verdicts) == len(pairs)
    for verdict, (first, second) in zip(verdicts, pairs, strict=True):
        assert verdict.startswith(f"The balanced accuracy of {titles[first]} ")
        assert titles[second] in verdict


def test_failed_and_missing_runs_are_counted_and_give_no_verdict(tmp_path):
    store = RunStore(tmp_path)
    runs = [
        write(store, "chain", 2),
        *(ArmRun(ARMS[n], FoldSplit(0, 0, {}), 0, 1, n) for n in ("single_long", "single")),
    ]
    store.write("single", (0, 0, 0), {"arm": "single", "digest": "single", "error": "ValueError: no"})
    content = summarize_comparison(runs, BUNDLE, store)
    assert (content["runs"], content["finished"], len(content["failures"])) == (3, 1, 1)
    assert [(arm["runs"], arm["failed"]) for arm in content["arms"]] == [(1, 0), (0, 0), (0, 1)]
    assert content["verdicts"] == [
        "No verdict: it needs finished runs of 'chain' and 'single_long' on the same splits."
    ]


@pytest.mark.parametrize(
    ("name", "plain", "wrong", "share", "reason"),
    [
        ("fixmatch", "single_long", 5, 0.0, "no image of the pool ever passed the threshold"),
        ("fixmatch", "single_long", 6, 0.3, "its predictions are those of single_long"),
        ("fixmatch", "single_long", 5, 0.3, None),
        ("mean_teacher", "single_long", 6, None, "its predictions are those of single_long"),
        ("mean_teacher", "single_long", 5, None, None),
        ("fixmatch+labels", "single_long+labels", 6, 0.3, "its predictions are those of single_long+labels"),
        ("fixmatch+labels", "single_long", 6, 0.3, None),
    ],
)
def test_an_inert_arm_is_no_competitor(tmp_path, name, plain, wrong, share, reason):
    store = RunStore(tmp_path)
    runs = [write(store, "chain", 2), write(store, plain, 6), write(store, name, wrong, pool_share=share)]
    content = summarize_comparison(runs, BUNDLE, store)
    arm = content["arms"][-1]
    assert (arm["inert"], arm["pool_share"]) == (reason, share)
    assert (arm["difference"] is None) == (reason is not None)
    told = [sentence for sentence in content["verdicts"] if "inert" in sentence]
    assert told == ([] if reason is None else [f"{name} was inert ({reason}), so the verdict leaves it out."])
    assert [one["inert"] for one in content["arms"][:-1]] == [None, None]
    page = comparison_page(content, about={"synthetic": False})
    assert ("<strong>Inert</strong>" in page) == (reason is not None)
    assert ("% passed the threshold" in page) == (share is not None)
    row = list(csv.DictReader(io.StringIO(comparison_csv(content))))[-1]
    assert row["pool_share"] == ("" if share is None else str(share))


def test_an_inert_reference_gets_no_verdict(tmp_path):
    store = RunStore(tmp_path)
    runs = [write(store, "single_long", 6), write(store, "fixmatch", 2, pool_share=0.0)]
    verdicts = summarize_comparison(runs, BUNDLE, store, reference="fixmatch")["verdicts"]
    assert verdicts[0].startswith("No verdict: it needs finished runs of 'fixmatch' and 'single_long'")
    assert verdicts[1].startswith("fixmatch was inert (no image of the pool")


def test_figures_for_a_paper(tmp_path):
    store = RunStore(tmp_path)
    content = summarize_comparison([write(store, "chain", 2), write(store, "single_long", 6)], BUNDLE, store)
    heads = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    found = comparison_figures(content)
    assert found.keys() == {f"differences.{kind}" for kind in heads}
    assert all(data.startswith(heads[name[-3:]]) for name, data in found.items())
    assert found == comparison_figures(content)
    # an arm of several stages has its curve
    content["arms"][0]["stages"] *= 2
    assert comparison_figures(content).keys() == {
        f"{name}.{kind}" for name in ("differences", "stages") for kind in heads
    }
    assert comparison_figures({**content, "arms": []}) == {}
