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

import pytest
import torch
from chain_runs import make_evaluator, make_items, make_network
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import (
    CheckpointLoader,
    CheckpointSaver,
    EarlyStopHandler,
    LrScheduleHandler,
    MLFlowHandler,
    ParamSchedulerHandler,
    StatsHandler,
    TensorBoardStatsHandler,
    ValidationHandler,
    from_engine,
    stopping_fn_from_metric,
)
from monai.utils import set_determinism

from monai_weckd import plan_training
from monai_weckd.engines import ChainEvents
from monai_weckd.handlers import ChainHandler, DistillationHandler, losses_from_output

ITEMS = make_items()
KINDS = ("teacher", "chain")


def make_pipeline(kind, make_handlers=lambda parts: [], *, max_epochs=6, scheduler=None, **options):
    """Return an ordinary trainer with one handler of ours, listed last, and its parts."""
    set_determinism(0)
    network = make_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    parts = {"network": network, "optimizer": optimizer, "evaluator": make_evaluator(network, ITEMS[90:])}
    parts["scheduler"] = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    parts["ours"] = (
        DistillationHandler(make_network(5), **options)
        if kind == "teacher"
        else ChainHandler(
            plan_training(ITEMS[:90], classes="abc"),
            evaluator=parts["evaluator"],
            fresh=[parts["scheduler"]],
            **options,
        )
    )
    trainer = SupervisedTrainer(
        "cpu",
        max_epochs=max_epochs,
        epoch_length=2,
        train_data_loader=DataLoader(Dataset(ITEMS[:90]), batch_size=8, shuffle=True),
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.CrossEntropyLoss(),
        train_handlers=[ValidationHandler(1, parts["evaluator"]), *make_handlers(parts), parts["ours"]],
    )
    return trainer, parts


@pytest.mark.parametrize("kind", KINDS)
def test_validation_handler(kind):
    trainer, parts = make_pipeline(kind)
    trainer.run()
    assert parts["evaluator"].state.epoch == 6
    assert parts["evaluator"].state.best_metric > 0


@pytest.mark.parametrize("kind", KINDS)
def test_stats_handler(kind, caplog, capsys):
    caplog.set_level("INFO")
    stats = StatsHandler(name="stats", tag_name="all", output_transform=losses_from_output)
    plain = StatsHandler(name="plain", tag_name="total", output_transform=from_engine("loss", first=True))
    make_pipeline(kind, lambda parts: [stats, plain])[0].run()
    # MONAI's handler writes to the console itself where logging has not been set up
    text = capsys.readouterr().out + caplog.text
    assert "distillation_loss: " in text
    assert "total: " in text


@pytest.mark.parametrize("kind", KINDS)
def test_tensorboard_handler(kind, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    handler = TensorBoardStatsHandler(log_dir=str(tmp_path), output_transform=losses_from_output)
    make_pipeline(kind, lambda parts: [handler])[0].run()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"loss", "task_loss", "distillation_loss", "attention_loss"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("distillation_loss")) == 12


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory):
    """Return a data base for all tests of this file, which takes seconds to make."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'runs.db'}"


@pytest.mark.parametrize("kind", KINDS)
def test_mlflow_handler(kind, tracking_uri):
    from mlflow.tracking import MlflowClient

    handler = MLFlowHandler(tracking_uri=tracking_uri, output_transform=losses_from_output, experiment_name=kind)
    make_pipeline(kind, lambda parts: [handler])[0].run()
    client = MlflowClient(tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name(kind).experiment_id])
    assert {"task_loss", "distillation_loss"} <= set(run.data.metrics)


@pytest.mark.parametrize("kind", KINDS)
def test_lr_schedule_handler(kind):
    rates = []
    trainer, parts = make_pipeline(kind, lambda parts: [LrScheduleHandler(parts["scheduler"], print_lr=False)])
    trainer.add_event_handler(
        Events.ITERATION_STARTED(every=2), lambda: rates.append(parts["optimizer"].param_groups[0]["lr"])
    )
    trainer.run()
    # a chain begins each of its three stages with the first rate
    steps = range(6) if kind == "teacher" else [0, 1] * 3
    assert rates == pytest.approx([0.1 * 0.5**step for step in steps])


@pytest.mark.parametrize("kind", KINDS)
def test_param_scheduler_handler(kind):
    seen = []

    def handlers(parts):
        return [
            ParamSchedulerHandler(
                lambda value: setattr(parts["ours"].loss_function, "weight", value),
                "linear",
                {"initial_value": 1.0, "step_constant": 0, "step_max_value": 6, "max_value": 0.0},
                epoch_level=True,
            )
        ]

    trainer, parts = make_pipeline(kind, handlers)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(parts["ours"].loss_function.weight))
    trainer.run()
    assert seen[-1] == pytest.approx(0.0)
    assert len(set(seen)) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_early_stop_handler(kind):
    trainer, parts = make_pipeline(kind)
    stop = EarlyStopHandler(1, lambda engine: -engine.state.epoch, trainer=trainer)
    stop.attach(parts["evaluator"])
    trainer.run()
    if kind == "chain":
        # the handler ends a stage, not the chain, and counts anew in the next
        assert [record.epochs for record in trainer.state.chain.records] == [2, 2, 2]
    else:
        assert trainer.state.epoch == 2
    assert callable(stopping_fn_from_metric("val_accuracy"))


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_saver(kind, tmp_path):
    def handlers(parts):
        return [CheckpointSaver(tmp_path, {"network": parts["network"]}, save_final=True, final_filename="final.pt")]

    trainer, _ = make_pipeline(kind, handlers)
    trainer.run()
    saved = torch.load(tmp_path / "final.pt", weights_only=True)
    assert list(saved) == list(make_network().state_dict())
    assert all(torch.equal(saved[key], tensor) for key, tensor in trainer.network.state_dict().items())


def test_checkpoint_loader_goes_on_with_the_teacher(tmp_path):
    first, parts = make_pipeline("teacher", max_epochs=3)
    content = {key: parts[key] for key in ("network", "optimizer")} | {"trainer": first}
    CheckpointSaver(tmp_path, content, save_final=True, final_filename="all.pt").attach(first)
    first.run()
    second, parts = make_pipeline("teacher", max_epochs=5)
    content = {key: parts[key] for key in ("network", "optimizer")} | {"trainer": second}
    CheckpointLoader(str(tmp_path / "all.pt"), content).attach(second)
    epochs = []
    second.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: epochs.append(engine.state.epoch))
    second.run()
    assert epochs == [4, 5]
    assert second.state.distiller.teacher is not None


def test_checkpoint_loader_gives_a_chain_its_first_weights(tmp_path):
    start = make_network(7).state_dict()
    torch.save(start, tmp_path / "start.pt")
    trainer, _ = make_pipeline(
        "chain", lambda parts: [CheckpointLoader(str(tmp_path / "start.pt"), {"network": parts["network"]})]
    )
    begun = []
    trainer.add_event_handler(
        ChainEvents.STAGE_STARTED, lambda engine: begun.append(engine.network[0].weight.detach().clone())
    )
    trainer.run()
    assert torch.equal(begun[0], start["0.weight"])
