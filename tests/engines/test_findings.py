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

"""A chain over several findings an image, solved or trained step by step, from plan to files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from chain_runs import make_network
from held_out import held_out
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler, from_engine
from monai.transforms import Activationsd, Compose, RandGaussianNoised
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from monai_weckd import plan_chain, plan_training
from monai_weckd.data import ByteCacheDataset
from monai_weckd.engines import ChainDistillationTrainer, ChainEvents, ChainOptions, HeadSolver
from monai_weckd.engines.calibration import HIGHEST, LOWEST, fit_scalings
from monai_weckd.handlers import ChainCheckpoint, ChainHandler, ChainRecorder, FrozenBackbone, MacroAUC
from monai_weckd.losses import DistillationLoss
from monai_weckd.networks import extract, solve_findings

NAMES = ("effusion", "mass", "edema")


def make_items(groups=60, per_group=2, *, unknown=0.15, seed=0):
    """Return noisy images, of which each channel is bright where a finding is present, two of them together often."""
    rng = np.random.default_rng(seed)
    items = []
    for group in range(groups):
        first = rng.integers(2)
        present = np.array([first, first if rng.uniform() < 0.7 else 1 - first, rng.uniform() < 0.3], dtype=np.float32)
        for index in range(per_group):
            image = torch.from_numpy(rng.standard_normal((3, 8, 8)).astype(np.float32) + present[:, None, None])
            label = np.where(rng.uniform(size=3) < unknown, -1, present).astype(np.float32)
            items.append({"image": image, "label": label, "group": f"g{group}", "id": f"g{group}_{index}"})
    return items


def plan_of(items, **settings):
    return plan_chain(items, held_out(policy="cumulative", seed=0, **settings), classes=NAMES, findings=True)


def make_solved(items, *, handlers=(), plan=None, sensitivity=None):
    network = make_network()
    backbone = FrozenBackbone(network)
    plan = plan or plan_of(items, selection="herding", stratify=False, num_stages=3)
    parts = {name: ByteCacheDataset(plan.select(items, name), []) for name in ("train", "val", "test")}
    loaders = {name: DataLoader(backbone.embed(part), batch_size=8) for name, part in parts.items()}
    evaluator = evaluator_of(loaders["val"], network, inferer=backbone.inferer)
    trainer = ChainDistillationTrainer(
        "cpu",
        3,
        plan=plan,
        train_data_loader=loaders["train"],
        network=network,
        optimizer=torch.optim.SGD(backbone.parameters(), lr=1.0),
        loss_function=DistillationLoss(multilabel=True),
        epoch_length=1,
        evaluator=evaluator,
        inferer=backbone.inferer,
        iteration_update=HeadSolver(sensitivity=sensitivity),
        decollate=False,
        train_handlers=[backbone, ValidationHandler(1, evaluator), *(make(loaders, evaluator) for make in handlers)],
    )
    return trainer, parts


def evaluator_of(loader, network, **options):
    return SupervisedEvaluator(
        "cpu",
        loader,
        network,
        postprocessing=Activationsd("pred", sigmoid=True),
        key_val_metric={"val_macro_auc": MacroAUC(from_engine(["pred", "label"]))},
        **options,
    )


def make_trained(items, *, loss_function=None, handlers=(), max_epochs=6, plan=None, **chain):
    network = make_network()
    plan = plan or plan_of(items, selection="herding", stratify=False, num_stages=2)
    transform = Compose([RandGaussianNoised("image", prob=1.0, std=0.2)])
    loader = DataLoader(Dataset(plan.select(items, "train"), transform), batch_size=8)
    loaders = {name: DataLoader(Dataset(plan.select(items, name)), batch_size=16) for name in ("val", "test")}
    evaluator = evaluator_of(loaders["val"], network)
    return ChainDistillationTrainer(
        "cpu",
        max_epochs,
        plan=plan,
        chain=ChainOptions(**chain),
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9),
        loss_function=loss_function or DistillationLoss(multilabel=True, temperature=2.0),
        epoch_length=4,
        evaluator=evaluator,
        decollate=False,
        train_handlers=[ValidationHandler(1, evaluator), *(make(loaders, evaluator) for make in handlers)],
    )


def recorder(folder, **options):
    folder.mkdir()
    return lambda loaders, evaluator: ChainRecorder(
        folder, evaluator, val_data_loader=loaders["val"], test_data_loader=loaders["test"], **options
    )


def test_a_solved_stage_has_the_regressions_of_its_labels():
    trainer, parts = make_solved(make_items())
    trainer.run()
    assert [record.labeled for record in trainer.records] == [len(stage.labeled) for stage in trainer.plan.stages]
    last = next(record for record in reversed(trainer.records) if record.accepted).stage
    features, logits = extract(trainer.network, parts["train"])
    chosen = set(trainer.plan.stages[last - 1].labeled)
    places = [place for place, item in enumerate(parts["train"].data) if item["id"] in chosen]
    labels = torch.from_numpy(np.stack([parts["train"].data[place]["label"] for place in places]))
    head = solve_findings(
        features[places],
        labels,
        [parts["train"].data[place]["group"] for place in places],
        mean=features.double().mean(0),
        scale=features.double().std(0, correction=0),
    )
    scale, offset = fit_scalings(head.out_of_fold, labels)
    expected = (features.double() @ head.weight.T + head.bias) * scale + offset
    torch.testing.assert_close(logits.double(), expected, rtol=1e-3, atol=1e-3)


def test_the_estimate_weights_each_label_by_the_images_nearest_to_it():
    trainer, parts = make_solved(make_items())
    trainer.run()
    state = trainer.walker.state
    features = extract(trainer.network, parts["train"])[0].double()
    points = ((features - features.mean(0)) / features.std(0, correction=0)).numpy()
    chosen = set(trainer.plan.stages[-1].labeled)
    is_mine = np.array([item["id"] in chosen for item in parts["train"].data])
    nearest = NearestNeighbors(n_neighbors=1).fit(points[is_mine]).kneighbors(points[~is_mine], return_distance=False)
    weights = 1 + np.bincount(nearest[:, 0], minlength=is_mine.sum())
    mine = [item for item in parts["train"].data if item["id"] in chosen]
    aucs = []
    for place in range(len(NAMES)):
        told = [state.held_out[item["id"]][place] for item in mine]
        held = np.array([value is not None for value in told])
        truth = [item["label"][place] > 0 for item in mine]
        aucs.append(roc_auc_score(truth, [value or 0 for value in told], sample_weight=held * weights))
    found = state.out_of_fold["estimate"]["macro_auc"]
    assert found["value"] == pytest.approx(np.mean(aucs), abs=1e-6)
    assert found["value"] != pytest.approx(state.out_of_fold["macro_auc"], abs=1e-4)
    assert found["interval"][0] < found["value"] < found["interval"][1]


def test_the_ledger_counts_findings_and_a_stage_tells_them(caplog):
    caplog.set_level("INFO")
    trainer, _ = make_solved(make_items())
    trainer.run()
    index = {item["id"]: item["label"] for item in trainer.walker.state.items}
    for line in trainer.oracle.to_dicts():
        if line["purpose"] == "shard":
            labels = np.stack([index[key] for key in trainer.plan.stages[line["stage"] - 1].labeled])
            assert line["known"] == tuple((labels >= 0).sum(axis=0))
    assert "macro AUC" in caplog.text
    present = (np.stack([index[key] for key in trainer.plan.stages[0].labeled]) == 1).sum(axis=0)
    assert (
        "(" + ", ".join(f"{count} {name}" for count, name in zip(present, NAMES, strict=True) if count) in caplog.text
    )


def shuffled(items, trainer):
    """Return items whose withheld findings are exchanged among the training items that no stage has asked for."""
    plan = trainer.plan
    asked = {key for stage in plan.stages for key in stage.labeled} | {*plan.val, *plan.test}
    index = {item["id"]: place for place, item in enumerate(items)}
    free = [index[key] for key in plan.train if key not in asked]
    order = np.random.default_rng(0).permutation(len(free))
    other = [dict(item) for item in items]
    for place, source in zip(free, order, strict=True):
        other[place]["label"] = items[free[source]]["label"]
    for key, places in plan.asked.items():  # and those of the asked images that were not asked for
        label = items[index[key]]["label"].copy()
        rest = [place for place in range(len(NAMES)) if place not in places]
        label[rest] = np.where(label[rest] >= 0, 1 - label[rest], 1)
        other[index[key]]["label"] = label
    changed = sum(not np.array_equal(a["label"], b["label"]) for a, b in zip(items, other, strict=True))
    assert changed > 10
    return other


def solved(items, plan):
    return make_solved(items, plan=plan)[0]


def trained(items, plan):
    return make_trained(items, plan=plan, pool_ratio=1)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (solved, {}),
        (trained, {}),
        (solved, {"findings_per_image": 1}),
        (trained, {"findings_per_image": 2}),
        (trained, {"findings_per_image": 1, "selection": "random", "missing_classes": "allow"}),
    ],
)
def test_withheld_findings_do_not_change_a_bit(make, settings):
    items = make_items()
    stages = 3 if make is solved else 2
    # the split reads all findings, so it is kept
    before = plan_of(items, **{"selection": "herding", "stratify": False, "num_stages": stages, **settings})
    first = make(items, before)
    first.run()
    second = make(shuffled(items, first), before)
    second.run()
    assert [stage.labeled for stage in second.plan.stages] == [stage.labeled for stage in first.plan.stages]
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name]), name
    assert second.walker.state.out_of_fold == first.walker.state.out_of_fold
    # and a finding that was asked for does
    known = {key for stage in first.plan.stages for key in stage.labeled}
    others = [
        {**item, "label": np.where(item["label"] >= 0, 1 - item["label"], -1)} if item["id"] in known else item
        for item in items
    ]
    third = make(others, before)
    third.run()
    assert any(not torch.equal(t, third.network.state_dict()[n]) for n, t in first.network.state_dict().items())


def test_the_ledger_counts_single_findings_that_were_asked_for():
    items = make_items()
    trainer, _ = make_solved(items, plan=plan_of(items, selection="herding", stratify=False, findings_per_image=1))
    trainer.run()
    asked, index = trainer.plan.asked, {item["id"]: item["label"] for item in items}
    lines = [line for line in trainer.oracle.to_dicts() if line["purpose"] == "shard"]
    for line, stage in zip(lines, trainer.plan.stages, strict=True):
        assert line["asked"] == line["labels"] == len(stage.labeled)
        known = np.zeros(len(NAMES), dtype=int)
        for key in stage.labeled:
            (place,) = asked[key]
            known[place] += index[key][place] >= 0
        assert line["known"] == tuple(known.tolist())
    told = [line for line in trainer.oracle.to_dicts() if line["purpose"] != "shard"]
    assert not any("asked" in line for line in told)
    # what was not asked for is no label of the cross-validation either
    last = max(stage["stage"] for stage in map(vars, trainer.records))
    held_out = trainer.walker.state.held_out
    assert held_out.keys() == set(trainer.plan.stages[last - 1].labeled)
    assert all(row[place] is None for key, row in held_out.items() for place in range(3) if place not in asked[key])


def test_a_chain_trains_step_by_step(tmp_path):
    trainer = make_trained(
        make_items(), handlers=[recorder(tmp_path / "run")], pool_ratio=1, calibrate=True, averaging=0.5, max_epochs=12
    )
    trainer.run()
    losses = [
        line["distillation_loss"] for line in json.loads((tmp_path / "run" / "history.json").read_text())["epochs"]
    ]
    assert losses[-1] is not None
    chain = json.loads((tmp_path / "run" / "chain.json").read_text())
    assert chain["final"]["test"]["macro_auc"] > 0.8
    assert len(chain["final"]["thresholds"]) == 3
    assert [line["known"] for line in chain["ledger"] if line["purpose"] == "validation"]


def test_errors_are_those_of_the_final_model_at_its_own_thresholds(tmp_path):
    trainer = make_trained(make_items(unknown=0.3), handlers=[recorder(tmp_path / "run", target_layer="0")])

    def unlearn(engine):
        if engine.state.stage == 2:
            trainer.optimizer.param_groups[0]["lr"] = -0.3

    trainer.add_event_handler(ChainEvents.STAGE_STARTED, unlearn)
    trainer.run()
    chain = json.loads((tmp_path / "run" / "chain.json").read_text())
    assert [stage["accepted"] for stage in chain["stages"]] == [True, False]
    limits = dict(zip(NAMES, chain["final"]["thresholds"], strict=True))
    assert list(limits.values()) != chain["stages"][1]["thresholds"]
    with (tmp_path / "run" / "predictions.csv").open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    errors = json.loads((tmp_path / "run" / "errors" / "errors.json").read_text())["errors"]
    assert errors
    for error in errors:
        row, name = rows[error["id"]], error["finding"]
        assert error["label"] == {"1": "present", "0": "absent"}[row[f"label_{name}"]]
        assert (error["predicted"] == "present") == (float(row[f"probability_{name}"]) >= limits[name])
        assert error["predicted"] != error["label"]


@pytest.mark.parametrize("teacher", ["ensemble", "student", "average"])
def test_every_teacher_teaches_findings(teacher):
    averaging = 0.5 if teacher == "average" else 0.0
    trainer = make_trained(make_items(), teacher=teacher, pool_ratio=1, averaging=averaging, max_epochs=4)
    trainer.run()
    assert len(trainer.records) == 2


def test_the_files_of_a_run(tmp_path):
    items = make_items()
    trainer, _ = make_solved(items, handlers=[recorder(tmp_path / "run")], sensitivity=0.9)
    trainer.run()
    chain = json.loads((tmp_path / "run" / "chain.json").read_text())
    assert (chain["classes"], chain["findings"]) == (list(NAMES), True)
    plan = trainer.plan.from_json((tmp_path / "run" / "plan.json").read_text())
    assert plan.findings
    with open(tmp_path / "run" / "predictions.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    assert list(rows[0]) == [
        "id",
        "group",
        "split",
        *(f"{part}_{n}" for part in ("label", "probability") for n in NAMES),
    ]
    index = {item["id"]: item["label"] for item in items}
    measured = chain["final"]["test"]
    for place, name in enumerate(NAMES):
        assert [row[f"label_{name}"] for row in rows] == [{-1: "", 0: "0", 1: "1"}[index[r["id"]][place]] for r in rows]
        truth = [row[f"label_{name}"] == "1" for row in rows]
        weight = [float(row[f"label_{name}"] != "") for row in rows]
        scores = [float(row[f"probability_{name}"]) for row in rows]
        expected = roc_auc_score(truth, scores, sample_weight=weight)
        assert measured["findings"][place]["auc"] == pytest.approx(expected)
        assert measured["findings"][place]["threshold"] == chain["final"]["thresholds"][place]
    final = chain["stages"][chain["final"]["stage"] - 1]
    with open(tmp_path / "run" / "out_of_fold.csv", newline="") as file:
        held = list(csv.DictReader(file))
    assert len(held) == final["labeled"]
    for place, name in enumerate(NAMES):
        told = [row for row in held if row[f"probability_{name}"]]
        assert all(row[f"label_{name}"] for row in told)
        scores = np.array([float(row[f"probability_{name}"]) for row in told if row[f"label_{name}"] == "1"])
        assert (scores >= chain["final"]["thresholds"][place]).mean() >= 0.9
    lists = json.loads((tmp_path / "run" / "datalist.json").read_text())
    assert all(set(line["label"]) <= {0, 1} for line in lists["test"])
    assert len(lists["test"]) == sum((index[row["id"]] >= 0).all() for row in rows)


@pytest.mark.parametrize("findings_per_image", [None, 1])
def test_a_run_resumes_to_the_bit(tmp_path, findings_per_image):
    items, active = make_items(), {"selection": "herding", "stratify": False, "num_stages": 2}
    plan = plan_of(items, **active, findings_per_image=findings_per_image)
    once = make_trained(items, max_epochs=4, plan=plan)
    once.run()
    (tmp_path / "run").mkdir()

    def checkpoint(loaders, evaluator):
        return ChainCheckpoint(tmp_path / "run", resume=True)

    first = make_trained(items, max_epochs=4, plan=plan, handlers=[checkpoint])

    def stop(engine):
        if engine.state.epoch == 3:
            raise KeyboardInterrupt

    first.add_event_handler(Events.EPOCH_COMPLETED, stop)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = make_trained(items, max_epochs=4, plan=plan, handlers=[checkpoint])
    second.run()
    for name, tensor in once.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name]), name
    assert second.oracle.ledger == once.oracle.ledger


def test_refuses_what_is_for_one_class_an_image():
    with pytest.raises(ValueError, match=r"multilabel: expected True for a plan of findings, got False"):
        make_trained(make_items(), loss_function=DistillationLoss()).run()
    with pytest.raises(ValueError, match="alignment: expected False for a plan of findings, got True"):
        make_trained(make_items(), alignment=True, pool_ratio=1).run()


def test_scalings_have_the_least_loss_of_platt():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((60, 2)) * 3
    labels = (rng.uniform(size=logits.shape) < 1 / (1 + np.exp(-(0.4 * logits - 1)))).astype(float)
    labels[:9, 0] = -1
    scale, offset = fit_scalings(torch.from_numpy(logits), torch.from_numpy(labels))
    for place in range(2):
        known = labels[:, place] >= 0
        x, y = logits[known, place], labels[known, place]
        target = np.where(y > 0, (y.sum() + 1) / (y.sum() + 2), 1 / (len(y) - y.sum() + 2))

        def loss(values, x=x, target=target):
            z = values[0] * x + values[1]
            return (np.logaddexp(0, z) - target * z).sum()

        found = minimize(loss, [1.0, 0.0], bounds=[(1 / HIGHEST, 1 / LOWEST), (None, None)], tol=1e-12).x
        np.testing.assert_allclose([scale[place], offset[place]], found, atol=1e-3)
    assert fit_scalings(torch.zeros(3, 1), torch.zeros(3, 1)) == (torch.ones(1), torch.zeros(1))


@pytest.mark.parametrize("batch", [7, 40])
def test_macro_auc_of_findings_leaves_out_what_is_unknown(batch):
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.choice([-1.0, 0, 1], (40, 3), p=[0.2, 0.5, 0.3]))
    labels[:, 2] = labels[:, 2].clamp(max=0)  # never present: in no mean
    probabilities = torch.from_numpy(rng.uniform(size=(40, 3)))
    metric = MacroAUC()
    for part in zip(probabilities.split(batch), labels.split(batch), strict=True):
        metric.update(part)
    areas = [
        roc_auc_score(labels[:, f] == 1, probabilities[:, f], sample_weight=(labels[:, f] >= 0).double())
        for f in (0, 1)
    ]
    assert metric.compute() == pytest.approx(np.mean(areas))


def test_the_handler_makes_a_chain_of_a_stock_trainer():
    items = make_items(groups=30)
    plan = plan_training(items, classes=NAMES, findings=True, num_stages=2, shard_size=15, selection="herding")
    network = make_network()
    trainer = SupervisedTrainer(
        "cpu",
        2,
        DataLoader(Dataset(items), batch_size=8),
        network,
        torch.optim.SGD(network.parameters(), lr=0.05),
        torch.nn.BCEWithLogitsLoss(reduction="none"),
        epoch_length=3,
        train_handlers=[ChainHandler(plan, weight=0.5, pool_ratio=1, multilabel=True)],
    )
    trainer.run()
    chain = trainer.state.chain
    assert [record.labeled for record in chain.records] == [15, 15]
    assert [line["known"] for line in chain.oracle.to_dicts() if line["purpose"] == "shard"]
