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
import logging

import pytest
import torch
from bundle_runs import OTOSCOPY
from figure_bounds import figure_bounds
from ignite.engine import Events
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics, ModelType
from monai.fl.utils.exchange_object import ExchangeObject

from monai_weckd.data.phantoms import make_phantom
from monai_weckd.utils.errors import first_cause

CLIENTS, LOCAL_EPOCHS = 2, 2
SCRATCH = ["configs/train.json", "configs/scratch.json"]
# two rounds, the first of which stops within a stage
SETTINGS = {
    "num_stages": 2,
    "max_epochs": 4,
    "chain#stage_epochs": [3, 1],
    "iterations_per_epoch": 1,
    "batch_size": 8,
    "label_fraction": 0.4,
    "missing_classes": "allow",
}
MODEL = {ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL}

pytestmark = [
    pytest.mark.filterwarnings("ignore:executing the bundle config"),
    pytest.mark.filterwarnings("ignore:.*eval:UserWarning"),
]


def make_client(dataset, output, **options):
    """Return a client as docs/how-to/federated.md makes it."""
    settings = {"dataset_dir": str(dataset), "output_dir": str(output), **SETTINGS}
    client = MonaiAlgo(
        str(OTOSCOPY),
        local_epochs=LOCAL_EPOCHS,
        send_weight_diff=False,
        train_kwargs=settings,
        config_evaluate_filename=SCRATCH,
        eval_kwargs=settings,
        best_model_filepath=str(output / "model.pt"),
        **{
            "config_train_filename": ["configs/train.json", "configs/scratch.json", "configs/federated_train.json"],
            **options,
        },
    )
    client.initialize({ExtraItems.CLIENT_NAME: output.name})
    return client


def copy(weights):
    return {key: tensor.clone() for key, tensor in weights.items()}


def mean(sent):
    """Return the mean of the clients' weights, as a server computes it."""
    return {key: torch.stack([one[key].double() for one in sent]).mean(0).to(sent[0][key]) for key in sent[0]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("federation")
    return [
        (make_phantom("otoscopy", root / f"data_{k}", items=48, seed=k), root / f"site_{k}") for k in range(CLIENTS)
    ]


@pytest.fixture(scope="module")
def federation(folders):
    """What two clients and a server did in two rounds."""
    logging.getLogger("monai.fl").setLevel(logging.ERROR)
    clients = [make_client(*folder) for folder in folders]
    done = {"clients": clients, "global": [copy(clients[0].get_weights().weights)], "sent": [], "began": []}
    done |= {"metrics": [], "statistics": [], "missing": []}
    for client in clients:
        client.trainer.add_event_handler(
            Events.ITERATION_STARTED, lambda engine: done["began"].append(copy(engine.network.state_dict()))
        )
    for _ in range(SETTINGS["max_epochs"] // LOCAL_EPOCHS):
        sent = []
        for client in clients:
            done["began"].append("round")
            client.train(ExchangeObject(weights=copy(done["global"][-1])))
            answer = client.get_weights()
            sent.append(copy(answer.weights))
            done["statistics"].append(answer.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS])
            done["missing"].append(not (folders[0][1] / "model.pt").exists())
        done["sent"].append(sent)
        done["global"].append(mean(sent))
        done["metrics"].append(
            [client.evaluate(ExchangeObject(weights=done["global"][-1])).metrics for client in clients]
        )
    done["best"] = [client.get_weights(MODEL).weights for client in clients]
    for client in clients:
        client.finalize()
    return done


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in other)


def test_the_chain_goes_on_over_the_rounds(federation, folders):
    assert federation["statistics"] == [2, 2, 2, 2]
    for _, output in folders:
        epochs = json.loads((output / "history.json").read_text())["epochs"]
        assert [(epoch["epoch"], epoch["stage"], epoch["stage_epoch"]) for epoch in epochs] == [
            (1, 1, 1),
            (2, 1, 2),
            (3, 1, 3),
            (4, 2, 1),
        ]
        chain = json.loads((output / "chain.json").read_text())
        assert [(stage["stage"], stage["epochs"], stage["accepted"]) for stage in chain["stages"]] == [
            (1, 3, True),
            (2, 1, True),
        ]
        assert chain["cost"] is None
        # a stage's labels are revealed once, though it takes two rounds
        assert [line["stage"] for line in chain["ledger"] if line["purpose"] == "shard"] == [1, 2]
        assert (output / "report.html").exists()
        assert len(list(output.rglob("events.out.tfevents.*"))) == 1


def test_students_go_on_from_the_weights_that_came_in(federation):
    began = federation["began"]
    first = [began[place + 1] for place, entry in enumerate(began) if entry == "round"]
    assert len(first) == 4
    for place, weights in enumerate(first):
        assert same(weights, federation["global"][place // CLIENTS])
    for sent in federation["sent"]:
        assert not same(*sent)
    assert not same(*federation["global"][-2:])


def test_the_last_weights_are_the_model_on_disk(federation, folders):
    assert federation["missing"] == [True, True, False, False]
    for place, (_, output) in enumerate(folders):
        weights = torch.load(output / "model.pt", weights_only=True)
        assert same(federation["sent"][-1][place], weights)
        assert same(federation["best"][place], weights)


def test_each_client_evaluates_the_global_weights(federation):
    client, metrics = federation["clients"][1], federation["metrics"][-1][1]
    assert set(metrics) == {"val_macro_auc", "val_balanced_accuracy"}
    network = client.evaluator.network.eval()
    assert network is not client.trainer.network
    assert same(network.state_dict(), federation["global"][-1])
    with torch.no_grad():
        batches = [(network(b["image"]).softmax(1), b["label"]) for b in client.evaluator.data_loader]
    probabilities, labels = (torch.cat(part).numpy() for part in zip(*batches, strict=True))
    lower, upper = figure_bounds(probabilities, labels, tolerance=1e-5)["balanced_accuracy"]
    assert upper - lower < 0.2
    assert lower - 1e-6 <= metrics["val_balanced_accuracy"] <= upper + 1e-6


def test_a_round_too_many_is_refused(federation):
    with pytest.raises(ValueError, match="max_epochs: expected at most 4, which the stages share, got 6"):
        federation["clients"][0].train(ExchangeObject(weights=federation["global"][-1]))


def test_a_folder_of_an_earlier_federation_is_refused(federation, folders):
    with pytest.raises(RuntimeError) as error:
        make_client(*folders[0])
    assert str(first_cause(error.value)).startswith("output_dir: expected an empty folder")


def test_without_the_overlay_a_round_would_have_to_be_a_chain(folders, tmp_path):
    with pytest.raises(RuntimeError) as error:
        make_client(folders[0][0], tmp_path, config_train_filename=SCRATCH)
    assert str(first_cause(error.value)).startswith("stage_epochs: expected 2 positive numbers that add up to max_ep")


def test_a_federation_that_ends_early_leaves_no_report(folders, tmp_path):
    client = make_client(folders[0][0], tmp_path / "site")
    client.train(ExchangeObject(weights=client.get_weights().weights))
    client.finalize()
    assert {path.name for path in (tmp_path / "site").iterdir()} == {"plan.json", "datalist.json", "tensorboard"}
