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
from copy import deepcopy

import monai
import pytest
import torch
from chain_runs import assert_same_weights
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import GanTrainer, IterationEvents, SupervisedTrainer
from monai.handlers import StatsHandler, from_engine
from monai.inferers import SimpleInferer
from monai.networks.nets import DenseNet
from monai.transforms import RandCropByPosNegLabeld, RandGaussianNoised
from monai.utils import set_determinism

from monai_weckd.engines import DistillationEvents, DistillationKeys, DistillationTrainer
from monai_weckd.handlers import DistillationHandler
from monai_weckd.losses import DistillationLoss, TemperatureSchedule
from monai_weckd.networks import TakeOutput, fingerprint

LAYER = "2"


def make_network(seed=0, scale=1.0):
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    )
    network[-1].weight.data *= scale
    return network


def make_loader():
    generator = torch.Generator().manual_seed(1)
    items = [{"image": torch.randn(3, 8, 8, generator=generator), "label": index % 3} for index in range(20)]
    return DataLoader(Dataset(items, RandGaussianNoised("image", prob=1.0)), batch_size=6, shuffle=True)


def make_trainer(kind=SupervisedTrainer, *, network=None, handlers=(), loss_function=None, **options):
    set_determinism(0)
    network = network or make_network()
    # no Adam, which takes a whole step for the smallest gradient, and so for the sign of a rounding
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    return kind(
        "cpu",
        max_epochs=3,
        train_data_loader=options.pop("train_data_loader", None) or make_loader(),
        network=network,
        optimizer=optimizer,
        loss_function=loss_function or torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        train_handlers=list(handlers),
        **options,
    )


def run_with_handler(teacher, **options):
    trainer = make_trainer(handlers=[DistillationHandler(teacher, **options)])
    trainer.run()
    return trainer


def test_args_validation(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"teacher: expected a network, a bundle's folder or a file, got .*none\.pt"
    ):
        DistillationHandler(tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"student_layer: expected a module path for attention_weight=1\.0, got None"):
        DistillationHandler(make_network(), attention_weight=1.0)
    with pytest.raises(ValueError, match="weight: expected a number from 0 to 1, got 2"):
        DistillationHandler(make_network(), weight=2)
    with pytest.raises(TypeError, match="engine: expected a SupervisedTrainer, got Engine"):
        DistillationHandler(make_network()).attach(Engine(lambda engine, batch: None))
    assert not issubclass(GanTrainer, SupervisedTrainer)
    with pytest.raises(TypeError, match="engine: expected SupervisedTrainer's own iteration, got another"):
        make_trainer(handlers=[DistillationHandler(make_network())], iteration_update=lambda engine, batch: {})
    with pytest.raises(ValueError, match="engine: expected a trainer without a teacher, got one with a teacher"):
        make_trainer(handlers=[DistillationHandler(make_network()), DistillationHandler(make_network())])
    with pytest.raises(TypeError, match="engine: expected SupervisedTrainer's own iteration"):
        make_trainer(
            DistillationTrainer, loss_function=DistillationLoss(), handlers=[DistillationHandler(make_network())]
        )


def test_the_trained_network_is_no_teacher():
    network = make_network()
    trainer = make_trainer(network=network, handlers=[DistillationHandler(network)])
    with pytest.raises(ValueError, match="teacher: expected another object than the trained network"):
        trainer.run()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight": 0.9, "temperature": 2.0},
        {"attention_weight": 5.0, "student_layer": LAYER},
        {"attention_weight": 5.0, "student_layer": LAYER, "teacher_layer": "0"},
        {"threshold": 0.4, "hard_labels": True},
        {"teacher_transform": lambda images: 2 * images + 1},
    ],
)
def test_the_student_is_that_of_a_distillation_trainer(options):
    teacher = make_network(seed=5, scale=3.0)
    found = run_with_handler(deepcopy(teacher), **options)
    loss = {"weight", "temperature", "attention_weight", "threshold", "hard_labels"}
    expected = make_trainer(
        DistillationTrainer,
        teacher=deepcopy(teacher),
        loss_function=DistillationLoss(
            task_loss=torch.nn.CrossEntropyLoss(label_smoothing=0.1),
            **{key: value for key, value in options.items() if key in loss},
        ),
        **{key: value for key, value in options.items() if key not in loss},
    )
    expected.run()
    assert found.state.iteration == expected.state.iteration == 12
    assert_same_weights(found.network, expected.network)
    alone = make_trainer()
    alone.run()
    assert (found.network[0].weight - alone.network[0].weight).abs().max() > 1e-3


def test_a_teacher_makes_a_difference_and_a_weight_of_nothing_does_not():
    alone = make_trainer()
    alone.run()
    teacher = make_network(seed=5, scale=3.0)
    assert_same_weights(run_with_handler(teacher, weight=0.0).network, alone.network)
    taught = run_with_handler(teacher, weight=0.5).network
    assert (taught[0].weight - alone.network[0].weight).abs().max() > 1e-3


def test_schedules_are_those_of_the_handlers():
    seen = []
    schedule = TemperatureSchedule(start=4.0, end=2.0, shape="linear")
    handler = DistillationHandler(make_network(5), weight=0.8, weight_end=0.0, temperature=schedule)
    trainer = make_trainer(handlers=[handler])
    trainer.add_event_handler(
        Events.ITERATION_STARTED(every=4),
        lambda engine: seen.append((handler.loss_function.weight, engine.state.temperature)),
    )
    trainer.run()
    assert seen == [(0.8, 4.0), (pytest.approx(0.4), 3.0), (0.0, 2.0)]


def test_events_and_logged_names(caplog):
    order, outputs = [], []
    handler = DistillationHandler(make_network(5))
    stats = StatsHandler(iteration_log=False, output_transform=from_engine(["loss"], first=True))
    trainer = make_trainer(handlers=[handler, stats])
    for event in (
        IterationEvents.FORWARD_COMPLETED,
        DistillationEvents.TEACHER_COMPLETED,
        IterationEvents.LOSS_COMPLETED,
    ):
        trainer.add_event_handler(event, lambda _, name=event: order.append(name))
    trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, lambda engine: outputs.append(engine.state.output))
    trainer.run()
    assert order[:3] == [
        IterationEvents.FORWARD_COMPLETED,
        DistillationEvents.TEACHER_COMPLETED,
        IterationEvents.LOSS_COMPLETED,
    ]
    keys = {DistillationKeys.TEACHER_PRED, DistillationKeys.TASK_LOSS, DistillationKeys.DISTILLATION_LOSS}
    assert keys <= {key for item in trainer.state.output for key in item}


def test_a_changed_teacher_is_found_out():
    teacher = make_network(5)
    trainer = make_trainer(handlers=[DistillationHandler(teacher)])
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: teacher[1].running_mean.add_(1))
    with pytest.raises(RuntimeError, match="teacher: expected unchanged parameters and buffers"):
        trainer.run()
    trainer = make_trainer(DistillationTrainer, teacher=make_network(5), loss_function=DistillationLoss())
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.teacher[1].running_mean.add_(1))
    with pytest.raises(RuntimeError, match="teacher: expected unchanged parameters and buffers"):
        trainer.run()


def test_the_teacher_s_mode_is_held_and_it_gets_no_gradient():
    teacher = make_network(5)
    trainer = make_trainer(handlers=[DistillationHandler(teacher)])
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: teacher.train())
    trainer.run()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


def test_detaching_restores_the_trainer():
    handler = DistillationHandler(make_network(5), attention_weight=1.0, student_layer=LAYER)
    trainer = make_trainer()
    before = trainer.loss_function, trainer.prepare_batch
    registered = {event: list(found) for event, found in trainer._event_handlers.items() if found}
    state = set(vars(trainer.state))
    handler.attach(trainer)
    trainer.run()
    assert (trainer.loss_function, trainer.prepare_batch) != before
    handler.detach(trainer)
    assert (trainer.loss_function, trainer.prepare_batch) == before
    assert {event: list(found) for event, found in trainer._event_handlers.items() if found} == registered
    assert set(vars(trainer.state)) == state
    assert not any(module._forward_hooks for module in trainer.network.modules())
    trainer.state.max_epochs = 4
    trainer.run()
    assert trainer.state.epoch == 4
    assert DistillationKeys.TASK_LOSS not in trainer.state.output[0]
    handler.attach(trainer)
    handler.detach(trainer)
    assert {event: list(found) for event, found in trainer._event_handlers.items() if found} == registered


def test_a_run_that_goes_on_keeps_its_teacher():
    handler = DistillationHandler(make_network(5))
    trainer = make_trainer(handlers=[handler])
    trainer.run()
    distiller = handler.distiller
    trainer.state.max_epochs = 5
    trainer.run()
    assert trainer.loss_function is distiller is handler.distiller
    assert distiller.criterion.task_loss is not distiller


def test_the_teacher_is_asked_before_the_student(monkeypatch):
    calls = []

    class Watch(SimpleInferer):
        def __call__(self, inputs, network, *args, **kwargs):
            calls.append(network)
            return super().__call__(inputs, network, *args, **kwargs)

    teacher = make_network(5)
    trainer = make_trainer(handlers=[DistillationHandler(teacher)], inferer=Watch())
    trainer.run()
    assert calls[:2] == [teacher, trainer.network]


def test_sources_of_one_teacher_make_one_student(tmp_path):
    teacher = make_network(seed=5, scale=3.0).eval()
    torch.save(teacher.state_dict(), tmp_path / "weights.pt")
    torch.jit.script(teacher).save(tmp_path / "script.pt")
    expected = run_with_handler(deepcopy(teacher)).network
    assert_same_weights(run_with_handler(tmp_path / "weights.pt").network, expected)
    assert_same_weights(run_with_handler(str(tmp_path / "weights.pt"), network=make_network(9)).network, expected)
    assert_same_weights(run_with_handler(tmp_path / "script.pt").network, expected)
    with pytest.raises(ValueError, match=r"teacher: expected a network with layers to look into .* got TorchScript"):
        run_with_handler(tmp_path / "script.pt", attention_weight=1.0, student_layer=LAYER)


def test_a_bundle_teaches(tmp_path):
    configs, models = tmp_path / "configs", tmp_path / "models"
    configs.mkdir()
    models.mkdir()
    network = {"_target_": "DenseNet", "spatial_dims": 2, "in_channels": 3, "out_channels": 3, "block_config": [1, 1]}
    (configs / "inference.json").write_text(json.dumps({"network_def": network}))
    with pytest.raises(FileNotFoundError, match=r"expected a bundle with models/model\.pt, got"):
        run_with_handler(tmp_path)
    torch.manual_seed(3)
    teacher = DenseNet(spatial_dims=2, in_channels=3, out_channels=3, block_config=(1, 1))
    torch.save(teacher.state_dict(), models / "model.pt")
    found = run_with_handler(tmp_path)
    assert fingerprint(found.state.distiller.teacher) == fingerprint(teacher)


def test_an_exported_network_teaches(tmp_path):
    teacher = make_network(seed=5, scale=3.0).eval()
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        teacher, (torch.rand(6, 3, 8, 8),), tmp_path / "teacher.onnx", dynamic_shapes=[{0: batch}], verbose=False
    )
    losses = {}
    for source in (deepcopy(teacher), tmp_path / "teacher.onnx"):
        trainer = make_trainer(handlers=[DistillationHandler(source)])
        kept = losses[type(source)] = []
        trainer.add_event_handler(
            IterationEvents.LOSS_COMPLETED,
            lambda engine, kept=kept: kept.append(engine.state.output[DistillationKeys.DISTILLATION_LOSS].item()),
        )
        trainer.run()
    expected, found = losses.values()
    assert found == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ValueError, match=r"teacher_layer: expected a module of OnnxNetwork, got '2'"):
        run_with_handler(tmp_path / "teacher.onnx", attention_weight=1.0, student_layer=LAYER)


def test_the_teacher_sees_what_the_transform_makes():
    class Brighter(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(2 * images + 1)

    teacher = make_network(seed=5, scale=3.0)
    found = run_with_handler(deepcopy(teacher), teacher_transform=lambda images: 2 * images + 1)
    expected = run_with_handler(Brighter(deepcopy(teacher)))
    assert_same_weights(found.network, expected.network)
    assert (found.network[0].weight - run_with_handler(teacher).network[0].weight).abs().max() > 1e-3


class Several(torch.nn.Module):
    """Return logits among other outputs, in a tuple or a dictionary; a tensor in eval mode if ``plain``."""

    def __init__(self, kind, *, plain=False, seed=0):
        super().__init__()
        self.network = make_network(seed)
        self.kind, self.plain = kind, plain

    def forward(self, images):
        logits = self.network(images)
        if self.plain and not self.training:
            return logits
        return (logits, [images]) if self.kind is tuple else {"logits": logits, "hidden": images}


def of_all(index):
    """Return a pipeline's own loss, which takes all that the network returns."""
    return lambda output, target: torch.nn.functional.cross_entropy(output[index], target)


@pytest.mark.parametrize(
    ("student", "teacher", "options"),
    [
        (Several(tuple), Several(tuple, seed=1), {"output_index": 0}),
        (Several(dict), Several(dict, seed=1), {"output_index": "logits"}),
        (Several(tuple), make_network(1), {"output_index": 0}),
        (Several(tuple, plain=True), Several(tuple, plain=True, seed=1), {"output_index": 0}),
        (Several(tuple), Several(dict, seed=1), {"output_index": 0, "teacher_output_index": "logits"}),
    ],
)
def test_logits_among_several_outputs_distill_alike(student, teacher, options):
    index = options["output_index"]
    handlers = [DistillationHandler(make_network(1))]
    plain = make_trainer(network=make_network(), handlers=handlers, loss_function=torch.nn.CrossEntropyLoss())
    plain.run()
    trainer = make_trainer(
        network=deepcopy(student), handlers=[DistillationHandler(teacher, **options)], loss_function=of_all(index)
    )
    trainer.run()
    assert_same_weights(trainer.network.network, plain.network)


def test_a_wrapped_network_distills():
    network, teacher = TakeOutput(Several(tuple), 0), TakeOutput(Several(dict, seed=1), "logits")
    trainer = make_trainer(network=network, handlers=[DistillationHandler(teacher)])
    trainer.run()
    plain = make_trainer(network=make_network(), handlers=[DistillationHandler(make_network(1))])
    plain.run()
    assert_same_weights(network.network.network, plain.network)


@pytest.mark.parametrize("kind", [tuple, dict])
@pytest.mark.parametrize("whose", ["teacher", "network"])
def test_several_outputs_without_a_choice_are_refused(kind, whose):
    networks = {"teacher": make_network(1), "network": make_network(), whose: Several(kind)}
    index = 0 if kind is tuple else "logits"
    loss = of_all(index) if whose == "network" else None
    trainer = make_trainer(
        network=networks["network"], handlers=[DistillationHandler(networks["teacher"])], loss_function=loss
    )
    with pytest.raises(ValueError, match=rf"^{whose}: expected logits, .* as the only output, got {kind.__name__} of"):
        trainer.run()


def test_a_former_teacher_learns_again():
    first, second = make_network(1), make_network(2)
    second[0].weight.requires_grad_(False)
    second.train()
    second[1].eval()
    handler = DistillationHandler(second)
    trainer = make_trainer(network=first, handlers=[handler])
    trainer.run()
    assert not any(parameter.requires_grad for parameter in second.parameters())
    back = make_trainer(network=second, handlers=[DistillationHandler(first)])
    with pytest.raises(
        ValueError, match=r"^network: expected parameters to train, got none that needs a gradient\. If"
    ):
        back.run()
    handler.detach(trainer)
    assert [name for name, parameter in second.named_parameters() if not parameter.requires_grad] == ["0.weight"]
    assert [name for name, module in second.named_modules() if not module.training] == ["1"]
    before = fingerprint(second)
    make_trainer(network=second, handlers=[DistillationHandler(first)]).run()
    assert fingerprint(second) != before


def test_a_trainer_gives_its_teacher_back():
    teacher = make_network(1)
    trainer = make_trainer(DistillationTrainer, loss_function=DistillationLoss(), teacher=teacher)
    trainer.run()
    trainer.teacher = make_network(2)
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert all(module.training for module in teacher.modules())


@pytest.mark.parametrize("teacher", [None, lambda images: images, [make_network(1)], 3])
def test_what_is_no_teacher_is_refused(teacher):
    with pytest.raises(TypeError, match=rf"^teacher: expected a network, .* got {type(teacher).__name__}\. [^\n]*$"):
        DistillationHandler(teacher)


@pytest.mark.parametrize(
    "make",
    [
        lambda network: network.half(),
        lambda network: network.double(),
        lambda network: network.bfloat16(),
        lambda network: torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear}, torch.qint8),
        torch.nn.DataParallel,
        lambda network: torch.compile(network, backend="eager"),
    ],
)
def test_a_teacher_may_have_another_precision_or_a_wrapper(make):
    losses = []
    for teacher in (make_network(1), make(make_network(1))):
        trainer = make_trainer(network=make_network(), handlers=[DistillationHandler(teacher)], decollate=False)
        trainer.run()
        losses.append(float(trainer.state.output["distillation_loss"]))
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


@pytest.mark.parametrize("collate", [monai.data.list_data_collate, torch.utils.data.default_collate])
def test_items_that_are_lists_are_collated_by_monai_or_refused(collate):
    """A transform such as RandCropByPosNegLabeld makes a list of an item."""
    items = [
        {"image": torch.ones(3, 8, 8) * index, "label": index % 3, "mask": torch.ones(1, 8, 8)} for index in (1, 2)
    ]
    crops = RandCropByPosNegLabeld("image", label_key="mask", spatial_size=(6, 6), num_samples=3, neg=0)
    trainer = make_trainer(
        network=make_network(),
        handlers=[DistillationHandler(make_network(1))],
        train_data_loader=torch.utils.data.DataLoader(Dataset(items, crops), batch_size=2, collate_fn=collate),
        decollate=False,
    )
    if collate is monai.data.list_data_collate:
        trainer.run()
        assert len(trainer.state.output["teacher_pred"]) == 6
    else:
        with pytest.raises(ValueError, match=r"got a list of dictionaries, .* Use monai.data.DataLoader, or"):
            trainer.run()
