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
import scipy.stats
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from monai_weckd.compare.statistics import ArmDifference, RunPredictions, arm_difference, arm_summary, verdict
from monai_weckd.engines.label_task import task_of
from monai_weckd.metrics import classification_metrics, finding_metrics
from monai_weckd.plan.label_kind import LabelKind


def run(rng, ids, labels, *, repeat=0, fold=0, seed=0, skill=1.0):
    logits = rng.normal(size=(len(labels), labels.max() + 1)).round(1)
    logits[np.arange(len(labels)), labels] += skill
    weights = np.exp(logits)
    # rounded: what ties is no matter of how a processor adds up
    probabilities = (weights / weights.sum(1, keepdims=True)).round(6)
    return RunPredictions(repeat, fold, seed, ids, labels, probabilities)


def cross_validated(rng, *, items=60, folds=3, repeats=1, seeds=(0,), skill=1.0, classes=3):
    """Return runs in which each item is tested once in a repeat; labels and folds are the same for any rng."""
    labels = np.arange(items) % classes
    found = []
    for repeat in range(repeats):
        fold_of = (np.arange(items) // classes + repeat * np.arange(items)) % folds
        for fold in range(folds):
            index = np.flatnonzero(fold_of == fold)
            for seed in seeds:
                ids = [f"i{i}" for i in index]
                found.append(run(rng, ids, labels[index], repeat=repeat, fold=fold, seed=seed, skill=skill))
    return found


OWN_GROUPS = {f"i{i}": f"g{i}" for i in range(1000)}


def test_arms_without_a_run_in_common_are_refused():
    rng = np.random.default_rng(0)
    ours, theirs = cross_validated(rng, seeds=[0]), cross_validated(rng, seeds=[1])
    with pytest.raises(ValueError, match="runs: expected some of the same split and seed in both arms, got none"):
        arm_difference(ours, theirs, groups=OWN_GROUPS)
    others = [replace(item, ids=item.ids[::-1]) for item in ours]
    with pytest.raises(ValueError, match="expected the same test items in both arms, got others in repeat 0, fold 0"):
        arm_difference(ours, others, groups=OWN_GROUPS)


def test_summary_against_scikit_learn():
    runs = cross_validated(np.random.default_rng(2), repeats=2, seeds=[0, 1])
    found = arm_summary(runs)
    own = [balanced_accuracy_score(item.labels, item.probabilities.argmax(1)) for item in runs]
    assert found["balanced_accuracy"]["mean"] == pytest.approx(np.mean(own))
    assert found["balanced_accuracy"]["sd"] == pytest.approx(np.std(own, ddof=1))
    sheets = {}
    for item in runs:
        sheets.setdefault((item.repeat, item.seed), []).append(item)
    assert all(
        sorted(key for part in sheet for key in part.ids) == sorted(f"i{i}" for i in range(60))
        for sheet in sheets.values()
    )
    labels = [np.concatenate([part.labels for part in sheet]) for sheet in sheets.values()]
    scores = [np.concatenate([part.probabilities for part in sheet]) for sheet in sheets.values()]
    pairs = list(zip(labels, scores, strict=True))
    expected = np.mean([balanced_accuracy_score(truth, p.argmax(1)) for truth, p in pairs])
    assert found["balanced_accuracy"]["pooled"] == pytest.approx(expected)
    expected = np.mean([classification_metrics(p, truth)["ece"] for truth, p in pairs])
    assert found["ece"]["pooled"] == pytest.approx(expected)


def test_pooled_auc_compares_items_within_a_fold_only():
    runs = cross_validated(np.random.default_rng(3), folds=3)
    # scores of one fold moved as a whole rank its own items as before
    moved = [
        replace(item, probabilities=(item.probabilities + item.fold * np.array([9, 0, 0])) / (1 + 9 * item.fold))
        for item in runs
    ]
    assert arm_summary(moved)["macro_auc"]["pooled"] == pytest.approx(arm_summary(runs)["macro_auc"]["pooled"])
    per_class = []
    for c in range(3):
        wins = total = 0.0
        for item in runs:
            for ours in item.probabilities[item.labels == c, c]:
                others = item.probabilities[item.labels != c, c]
                wins += (ours > others).sum() + (ours == others).sum() / 2
                total += len(others)
        per_class.append(wins / total)
    assert arm_summary(runs)["macro_auc"]["pooled"] == pytest.approx(np.mean(per_class))


def test_a_single_run_has_no_deviation():
    found = arm_summary(cross_validated(np.random.default_rng(0), folds=1))
    assert found["accuracy"]["sd"] is None
    assert found["accuracy"]["mean"] == pytest.approx(found["accuracy"]["pooled"])


def test_interval_against_scipy_and_closed_form():
    rng = np.random.default_rng(4)
    ours, theirs = (cross_validated(rng, items=300, folds=1, skill=skill) for skill in (1.5, 1.0))
    found = arm_difference(ours, theirs, groups=OWN_GROUPS, num_resamples=4000)["accuracy"]
    hits = [(item.probabilities.argmax(1) == item.labels).astype(float) for item in (ours[0], theirs[0])]
    gain = hits[0] - hits[1]
    assert found.value == pytest.approx(gain.mean())
    assert found.standard_error == pytest.approx(gain.std() / np.sqrt(300), rel=0.05)
    assert found.visible == pytest.approx(2.8 * found.standard_error)
    expected = scipy.stats.bootstrap(
        hits, lambda a, b, axis: (a - b).mean(axis), paired=True, method="percentile", n_resamples=4000, rng=0
    ).confidence_interval
    assert found.interval == pytest.approx((expected.low, expected.high), abs=0.006)


def test_groups_are_drawn_whole():
    rng = np.random.default_rng(5)
    ours, theirs = (cross_validated(rng, items=90, folds=1, skill=skill)[0] for skill in (1.5, 1.0))

    def tenfold(item):
        return [
            replace(
                item,
                ids=[f"{key}-{n}" for n in range(10) for key in item.ids],
                labels=np.tile(item.labels, 10),
                probabilities=np.tile(item.probabilities, (10, 1)),
            )
        ]

    plain = arm_difference([ours], [theirs], groups=OWN_GROUPS)
    copies = {f"{key}-{n}": group for key, group in OWN_GROUPS.items() for n in range(10)}
    grouped = arm_difference(tenfold(ours), tenfold(theirs), groups=copies)
    assert grouped["accuracy"].interval == pytest.approx(plain["accuracy"].interval)
    naive = arm_difference(tenfold(ours), tenfold(theirs), groups={key: key for key in copies})
    assert naive["accuracy"].standard_error < 0.5 * plain["accuracy"].standard_error


def test_variance_of_training_is_added():
    # one arm always right, the other always wrong in some folds: resampled groups see no spread within a fold
    labels, gains = np.array([0, 1] * 10), [0, 0, 1, 1, 1]
    right = np.eye(2)[labels]
    ours = [RunPredictions(0, k, 0, [f"i{k}-{i}" for i in range(20)], labels, right) for k in range(5)]
    theirs = [replace(item, probabilities=right[:, ::-1] if gains[item.fold] else right) for item in ours]
    groups = {key: key for item in ours for key in item.ids}
    found = arm_difference(ours, theirs, groups=groups, num_resamples=4000)["accuracy"]
    drawn, between = 0.6 * 0.4 / 100, np.var(gains, ddof=1) / 5
    assert found.value == pytest.approx(0.6)
    assert found.standard_error**2 == pytest.approx(drawn + between, rel=0.02)
    freedom = 4 * ((drawn + between) / between) ** 2
    quantile = scipy.stats.t.ppf(0.975, freedom)
    assert found.visible == pytest.approx((quantile + 0.84) * found.standard_error, rel=0.01)
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * quantile * found.standard_error, rel=0.05)


@pytest.mark.parametrize("place", ["seed", "fold", "repeat"])
def test_on_one_test_set_the_variance_between_runs_is_added(place):
    labels, ids = np.arange(40) % 2, [f"i{i}" for i in range(40)]
    arms = [[run(np.random.default_rng(10 * n + arm), ids, labels, **{place: n}) for n in range(4)] for arm in (0, 1)]
    found = arm_difference(*arms, groups=OWN_GROUPS)["accuracy"]
    right = [[(item.probabilities.argmax(1) == labels).mean() for item in arm] for arm in arms]
    gaps = np.subtract(*right)
    drawn = arm_difference(arms[0][:1], arms[1][:1], groups=OWN_GROUPS)["accuracy"]
    assert found.value == pytest.approx(gaps.mean())
    assert found.standard_error > np.sqrt(gaps.var(ddof=1) / 4)
    hits = np.mean(
        [
            (a.probabilities.argmax(1) == labels) * 1 - (b.probabilities.argmax(1) == labels)
            for a, b in zip(*arms, strict=True)
        ],
        axis=0,
    )
    assert found.standard_error == pytest.approx(np.sqrt(hits.var() / 40 + gaps.var(ddof=1) / 4), rel=0.1)
    # one run says nothing of other trainings
    assert drawn.runs == 1


def test_equal_arms_differ_by_nothing():
    runs = cross_validated(np.random.default_rng(6))
    found = arm_difference(runs, list(reversed(runs)), groups=OWN_GROUPS)
    assert all(item.value == 0 for item in found.values())
    assert found["accuracy"].interval == (0, 0)


def test_pairing_narrows_the_interval():
    # what both arms get wrong alike is no difference between them
    rng = np.random.default_rng(7)
    ours, strangers = (cross_validated(rng, items=300) for _ in range(2))
    theirs = [
        replace(item, probabilities=np.vstack([item.probabilities[:90], item.probabilities[90:, ::-1]]))
        for item in ours
    ]
    paired = arm_difference(ours, theirs, groups=OWN_GROUPS)["accuracy"].standard_error
    assert paired < 0.6 * arm_difference(ours, strangers, groups=OWN_GROUPS)["accuracy"].standard_error


def test_only_common_runs_are_compared():
    rng = np.random.default_rng(8)
    ours, theirs = cross_validated(rng, seeds=[0, 1]), cross_validated(rng, seeds=[0, 1])
    part = arm_difference(ours, theirs[:-1], groups=OWN_GROUPS)["accuracy"]
    assert part.runs == 5
    assert part == arm_difference(ours[:-1], theirs, groups=OWN_GROUPS)["accuracy"]


def test_one_group_gives_no_interval():
    rng = np.random.default_rng(9)
    one = dict.fromkeys(OWN_GROUPS, "the only patient")
    found = arm_difference(cross_validated(rng), cross_validated(rng), groups=one)["accuracy"]
    assert (found.interval, found.standard_error, found.visible) == (None, None, None)


def test_calibration_error_has_a_difference_and_no_interval():
    rng = np.random.default_rng(10)
    ours, theirs = cross_validated(rng), cross_validated(rng)
    found = arm_difference(ours, theirs, groups=OWN_GROUPS)["ece"]
    assert found.value == pytest.approx(arm_summary(ours)["ece"]["pooled"] - arm_summary(theirs)["ece"]["pooled"])
    assert found.interval is None


@pytest.mark.slow
def test_equal_methods_are_rarely_told_apart():
    # two arms that differ by chance alone, of which a share is the whole network's: 5 % are asked for
    rng, wrong, rounds = np.random.default_rng(11), 0, 120
    for _ in range(rounds):
        arms = []
        for _ in range(2):
            found = [cross_validated(rng, items=150, folds=5, skill=1 + 0.2 * rng.normal())[fold] for fold in range(5)]
            arms.append(found)
        lower, upper = arm_difference(*arms, groups=OWN_GROUPS, num_resamples=200)["balanced_accuracy"].interval
        wrong += not lower <= 0 <= upper
    assert wrong / rounds < 0.12


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (
            ArmDifference(0.031, (0.004, 0.0591), 0.014, 0.039, 15),
            "The accuracy of the chain is 3.1 points above that of one model (95 % interval 0.4 to 5.9): it helped.",
        ),
        (
            ArmDifference(-0.02, (-0.03, -0.01), 0.005, 0.014, 15),
            "The accuracy of the chain is 2.0 points below that of one model (95 % interval -3.0 to -1.0): it hurt.",
        ),
        (
            ArmDifference(0.01, (-0.012, 0.03), 0.01, 0.028, 15),
            "The accuracy of the chain cannot be told apart from that of one model: it differs by +1.0 points "
            "(95 % interval -1.2 to 3.0), and a true difference of less than 2.8 is easily missed here.",
        ),
        (
            ArmDifference(0.01, None, None, None, 15),
            "The accuracy of the chain differs from that of one model by +1.0 points; there "
            "are too few groups to say more.",
        ),
    ],
)
def test_verdict(difference, sentence):
    assert verdict(difference, arm="the chain", control="one model", metric="accuracy") == sentence


FINDINGS = task_of(LabelKind(("a", "b"), findings=True))


def found_runs(rng, *, items=90, folds=3, skill=1.0):
    """Return runs with findings, of which some are unknown; labels and folds are the same for any rng."""
    drawn = np.random.default_rng(7)
    labels = drawn.integers(0, 2, (items, 2)).astype(float)
    labels[drawn.uniform(size=labels.shape) < 0.2] = -1
    scores = (1 / (1 + np.exp(-rng.normal(size=labels.shape) - skill * (labels > 0)))).round(3)
    return [
        RunPredictions(0, fold, 0, [f"i{i}" for i in part], labels[part], scores[part], [0.5, 0.6])
        for fold, part in enumerate(np.array_split(np.arange(items), folds))
    ]


def test_findings_against_scikit_learn():
    runs = found_runs(np.random.default_rng(0))
    found = arm_summary(runs, FINDINGS)
    aucs = [
        roc_auc_score(run.labels[:, f] > 0, run.probabilities[:, f], sample_weight=run.labels[:, f] >= 0)
        for run in runs
        for f in (0, 1)
    ]
    assert found["macro_auc"]["mean"] == pytest.approx(np.mean(aucs))
    labels, scores = (np.concatenate([getattr(run, name) for run in runs]) for name in ("labels", "probabilities"))
    f1 = [
        f1_score(labels[:, f] > 0, scores[:, f] >= limit, sample_weight=labels[:, f] >= 0)
        for f, limit in ((0, 0.5), (1, 0.6))
    ]
    assert found["macro_f1"]["pooled"] == pytest.approx(np.mean(f1))
    assert found["macro_ece"]["pooled"] == pytest.approx(finding_metrics(scores, labels)["macro_ece"])


def test_the_difference_of_findings_has_an_interval_over_groups():
    ours, theirs = (found_runs(np.random.default_rng(n), skill=skill) for n, skill in ((0, 2.0), (1, 0.5)))
    found = arm_difference(ours, theirs, FINDINGS, groups=OWN_GROUPS)
    assert list(found) == ["macro_auc", "macro_average_precision", "macro_f1", "macro_ece"]
    gap = arm_summary(ours, FINDINGS)["macro_auc"]["pooled"] - arm_summary(theirs, FINDINGS)["macro_auc"]["pooled"]
    assert found["macro_auc"].value == pytest.approx(gap)
    low, high = found["macro_auc"].interval
    assert low < gap < high
    assert found["macro_ece"].interval is None
    wide = arm_difference(ours, theirs, FINDINGS, groups={key: f"g{int(key[1:]) % 6}" for key in OWN_GROUPS})
    assert wide["macro_auc"].value == pytest.approx(gap)
    assert arm_difference(ours, ours, FINDINGS, groups=OWN_GROUPS)["macro_auc"].interval == (0, 0)
