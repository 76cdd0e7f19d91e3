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

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor
from monai.losses import FocalLoss
from scipy.special import expit, log_softmax, rel_entr
from sklearn.metrics import log_loss
from torch.autograd import gradcheck

from monai_weckd.losses.attention import attention_transfer_loss
from monai_weckd.losses.distillation import DistillationLoss, distillation_loss
from monai_weckd.utils.enums import UNLABELED

HALVES = [torch.float16, torch.bfloat16]


def logits(*shape, seed=0, dtype=torch.float32, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def oracle(student, teacher, temperature, multilabel=False):
    """The loss of each item, in double precision."""
    student, teacher = (data.double().numpy() / temperature for data in (student, teacher))
    if multilabel:
        divergence = rel_entr(expit(teacher), expit(student)) + rel_entr(expit(-teacher), expit(-student))
        divergence = divergence / student.shape[1]  # a mean over the classes
    else:
        divergence = rel_entr(*(np.exp(log_softmax(data, axis=1)) for data in (teacher, student)))
    positions = divergence.sum(axis=1).reshape(len(student), -1)
    return temperature**2 * positions.mean(axis=1)


# ---- distillation_loss: arguments


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan])
def test_refuses_a_temperature_that_does_not_divide(temperature):
    with pytest.raises(ValueError, match=f"^temperature: expected a positive finite number, got {temperature}"):
        distillation_loss(logits(2, 3), logits(2, 3), temperature=temperature)


@pytest.mark.parametrize("reduction", ["batchmean", None])
def test_refuses_an_unknown_reduction(reduction):
    with pytest.raises(ValueError, match=f'^reduction: expected "mean", "sum" or "none", got {reduction!r}'):
        distillation_loss(logits(2, 3), logits(2, 3), reduction=reduction)


# ---- distillation_loss: values


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 10.0])
@pytest.mark.parametrize("shape", [(1, 2), (5, 3), (4, 100), (2, 3, 4, 5), (2, 3, 2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES])
def test_equals_scipy(multilabel, temperature, shape, dtype):
    student, teacher = logits(*shape, dtype=dtype), logits(*shape, seed=1, dtype=dtype)
    expected = oracle(student, teacher, temperature, multilabel)
    precision = 1e-12 if dtype == torch.float64 else 2e-5
    for reduction, value in (("none", expected), ("mean", expected.mean()), ("sum", expected.sum())):
        result = distillation_loss(
            student, teacher, temperature=temperature, multilabel=multilabel, reduction=reduction
        )
        assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        np.testing.assert_allclose(result.numpy(), value, rtol=precision, atol=precision)


def test_one_sigmoid_is_a_softmax_of_two():
    student, teacher = logits(4, 1, dtype=torch.float64), logits(4, 1, seed=1, dtype=torch.float64)
    pair = [torch.cat([data, torch.zeros_like(data)], dim=1) for data in (student, teacher)]
    for temperature in (1.0, 4.0):
        torch.testing.assert_close(
            distillation_loss(student, teacher, temperature=temperature, multilabel=True),
            distillation_loss(*pair, temperature=temperature),
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 2e4), (4.0, 8e4)])
def test_is_exact_for_huge_logits(dtype, multilabel, temperature, expected):
    student = torch.tensor([[1e4, -1e4]], dtype=dtype, requires_grad=True)
    loss = distillation_loss(student, -student.detach(), temperature=temperature, multilabel=multilabel)
    loss.backward()
    # T^2 * 2e4 / T as one softmax between logits 2e4 apart, half of it as the mean of two sigmoids of logits 1e4 from 0
    size = 2 if multilabel else 1
    assert loss.item() == pytest.approx(expected / size)
    np.testing.assert_allclose(student.grad.double().numpy(), [[temperature / size, -temperature / size]])
    assert distillation_loss(student, student, temperature=temperature, multilabel=multilabel).item() == 0


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize("temperature", [0.7, 4.0])
def test_gradient(multilabel, shape, temperature):
    student = logits(*shape, dtype=torch.float64).requires_grad_()
    teacher = logits(*shape, seed=1, dtype=torch.float64)

    def loss(data):
        return distillation_loss(data, teacher, temperature=temperature, multilabel=multilabel, reduction="none")

    assert gradcheck(loss, student)


@pytest.mark.parametrize(("multilabel", "slope"), [(False, 1 / 5), (True, 1 / 4 / 5)])
def test_gradient_keeps_its_size_when_hot(multilabel, slope):
    # Hinton et al.: for a high temperature the gradient is that of matching the (centered) logits, whatever T is;
    # the variance of a sigmoid at 0 is 1/4
    student, teacher = logits(1, 5, dtype=torch.float64).requires_grad_(), logits(1, 5, seed=1, dtype=torch.float64)
    difference = student.detach() - teacher
    expected = slope * (difference if multilabel else difference - difference.mean())
    for temperature in (1e3, 1e4):
        loss = distillation_loss(student, teacher, temperature=temperature, multilabel=multilabel)
        (gradient,) = torch.autograd.grad(loss, student)
        torch.testing.assert_close(gradient, expected, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_is_zero_where_both_agree(multilabel, temperature):
    student = logits(4, 5).requires_grad_()
    loss = distillation_loss(student, student.detach().clone(), temperature=temperature, multilabel=multilabel)
    loss.backward()
    assert loss.item() == 0
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-6, rtol=0)


def test_no_gradient_flows_into_the_teacher():
    student, teacher = logits(4, 5).requires_grad_(), logits(4, 5, seed=1).requires_grad_()
    distillation_loss(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("multilabel", [False, True])
def test_accepts_a_teacher_in_inference_mode(multilabel):
    student = logits(4, 5).requires_grad_()
    with torch.inference_mode():
        teacher = logits(4, 5, seed=1) * 1
    distillation_loss(student, teacher, multilabel=multilabel).backward()
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("multilabel", [False, True])
def test_autocast_keeps_single_precision(multilabel):
    network, images, teacher = torch.nn.Linear(7, 5), logits(4, 7), logits(4, 5, seed=1, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        student = network(images)
        result = distillation_loss(student, teacher, temperature=2.0, multilabel=multilabel)
    assert student.dtype == torch.bfloat16
    assert result.dtype == torch.float32
    torch.testing.assert_close(
        result, distillation_loss(student.float(), teacher.float(), temperature=2.0, multilabel=multilabel)
    )


def test_metatensor_becomes_a_tensor():
    student, teacher = logits(4, 5), logits(4, 5, seed=1)
    result = distillation_loss(MetaTensor(student), MetaTensor(teacher), reduction="none")
    assert type(result) is torch.Tensor
    assert torch.equal(result, distillation_loss(student, teacher, reduction="none"))


@settings(max_examples=100, deadline=None)
@given(
    data=arrays(np.float32, (2, 3, 4), elements=st.floats(-1e4, 1e4, width=32)),
    temperature=st.floats(0.5, 20),
    multilabel=st.booleans(),
)
def test_is_finite_and_never_negative(data, temperature, multilabel):
    student, teacher = torch.from_numpy(data)
    student.requires_grad_()
    loss = distillation_loss(student, teacher, temperature=temperature, multilabel=multilabel, reduction="none")
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(student.grad).all()
    assert (loss >= -1e-4 * temperature**2).all()  # rounding around 0


@settings(max_examples=50, deadline=None)
@given(
    data=arrays(np.float64, (2, 3, 4), elements=st.floats(-50, 50)),
    shifts=arrays(np.float64, (2, 3, 1), elements=st.floats(-1e3, 1e3)),
    order=st.permutations(range(4)),
)
def test_is_blind_to_a_constant_per_row_and_to_class_order(data, shifts, order):
    expected = distillation_loss(*torch.from_numpy(data), temperature=3.0, reduction="none")
    shifted = distillation_loss(*torch.from_numpy(data + shifts), temperature=3.0, reduction="none")
    permuted = distillation_loss(*torch.from_numpy(data[..., order]), temperature=3.0, reduction="none")
    torch.testing.assert_close(shifted, expected, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(permuted, expected, atol=1e-8, rtol=1e-8)


# ---- DistillationLoss: arguments


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_refuses_a_weight_that_is_no_share(weight):
    with pytest.raises(ValueError, match=f"^weight: expected a number from 0 to 1, got {weight}"):
        DistillationLoss(weight=weight)


def test_refuses_a_temperature_of_zero():
    with pytest.raises(ValueError, match=r"^temperature: expected a positive finite number, got 0"):
        DistillationLoss(temperature=0)


@pytest.mark.parametrize("attention_weight", [-1, math.inf, math.nan])
def test_refuses_a_negative_attention_weight(attention_weight):
    with pytest.raises(
        ValueError, match=f"^attention_weight: expected a finite number from 0 up, got {attention_weight}"
    ):
        DistillationLoss(attention_weight=attention_weight)


def test_refuses_class_weights_beside_a_task_loss():
    with pytest.raises(ValueError, match=r"^class_weights: expected None beside a task_loss, got both"):
        DistillationLoss(task_loss=torch.nn.CrossEntropyLoss(), class_weights=[1.0, 2.0])


@pytest.mark.parametrize("weights", [[1.0, 0.0], [1.0, -1.0], [1.0, math.inf]])
def test_refuses_class_weights_that_are_not_positive(weights):
    with pytest.raises(ValueError, match=r"^class_weights: expected a positive finite number per class, got"):
        DistillationLoss(class_weights=weights)


def softened(dtype=torch.float32):
    target = torch.nn.functional.one_hot(torch.tensor([0, 2, 1, 1]), 3).to(dtype)
    return (0.7 * target + 0.3 * target.flip(0)) * 0.9 + 0.1 / 3  # mixup and smoothing


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_class_probabilities_distill_by_softmax(dtype):
    student, teacher, target = logits(4, 3), logits(4, 3, seed=1), softened(dtype)
    losses = DistillationLoss(temperature=2.0).components(student, target, teacher)
    log = student.log_softmax(dim=1)
    torch.testing.assert_close(losses["task_loss"], -(target.float() * log).sum(dim=1).mean(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(losses["distillation_loss"], distillation_loss(student, teacher, temperature=2.0))
    # one that has no label, in the whole row
    target[1] = -1
    found = DistillationLoss().components(student, target)["task_loss"]
    kept = [0, 2, 3]
    torch.testing.assert_close(found, -(target.float() * log).sum(dim=1)[kept].mean(), rtol=1e-3, atol=1e-3)


def test_the_trainers_own_loss_gets_class_probabilities():
    student, target = logits(4, 3), softened()
    own = torch.nn.KLDivLoss(reduction="batchmean")
    loss = DistillationLoss(task_loss=lambda pred, given: own(pred.log_softmax(dim=1), given), weight=0.0)
    torch.testing.assert_close(loss(student, target), own(student.log_softmax(dim=1), target))


@pytest.mark.parametrize("row", [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.5, -0.5, 0.0], [0.5, 0.0, 0.0]])
def test_refuses_rows_that_are_no_class_probabilities(row):
    target = softened()
    target[2] = torch.tensor(row)
    with pytest.raises(
        ValueError, match=r"^target: expected class probabilities that sum to 1 in each row, got"
    ) as caught:
        DistillationLoss()(logits(4, 3), target)
    assert "multilabel=True" not in str(caught.value)


def test_several_classes_at_once_are_asked_for():
    target = torch.eye(4)[:, :3]
    target[3] = torch.tensor([1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"^multilabel: expected True for BCEWithLogitsLoss and a column per class"):
        DistillationLoss(task_loss=torch.nn.BCEWithLogitsLoss())(logits(4, 3), target)


def test_the_task_loss_gets_all_that_the_student_returned():
    student, target = logits(4, 3), torch.tensor([0, -1, 2, 1])

    def task_loss(output, labels):
        assert output["features"][0].shape == (3, 5)
        assert output["scale"] == 2
        return torch.nn.functional.cross_entropy(output["logits"], labels)

    output = {"logits": student, "features": [torch.zeros(4, 5)], "scale": 2}
    found = DistillationLoss(task_loss=task_loss).components(student, target, output=output)["task_loss"]
    kept = [0, 2, 3]
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(student[kept], target[kept]))


@pytest.mark.parametrize("missing", ["student_features", "teacher_features"])
def test_refuses_the_features_of_one_network(missing):
    features = {"student_features": torch.zeros(2, 1, 2, 2), "teacher_features": torch.zeros(2, 1, 2, 2), missing: None}
    with pytest.raises(ValueError, match=f"^{missing}: expected the features of both networks or of none, got None"):
        DistillationLoss()(logits(2, 3), torch.zeros(2), logits(2, 3), **features)


@pytest.mark.parametrize("unknown", [-1.0, math.nan])
def test_unknown_classes_train_nothing(unknown):
    student = logits(4, 3).requires_grad_()
    target = torch.tensor([[1, 0, unknown], [unknown] * 3, [unknown, unknown, 1], [0, 1, 1]])
    loss = DistillationLoss(multilabel=True)(student, target)
    known = (target >= 0).numpy()
    truth = np.where(known, target.numpy(), 0).ravel()
    expected = log_loss(truth, expit(student.detach().numpy()).ravel(), sample_weight=known.ravel().astype(float))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert (student.grad[torch.from_numpy(~known)] == 0).all()
    assert (student.grad[torch.from_numpy(known)] != 0).all()


def test_a_task_loss_for_unknown_classes_gives_one_for_each_class():
    student, target = logits(2, 3), torch.tensor([[1.0, 0.0, -1.0], [-1.0, -1.0, -1.0]])
    each = DistillationLoss(multilabel=True, task_loss=torch.nn.BCEWithLogitsLoss(reduction="none"))
    torch.testing.assert_close(each(student, target), DistillationLoss(multilabel=True)(student, target))
    with pytest.raises(
        ValueError, match=r"^task_loss: expected a loss for each class, \(1, 3\), where some are unknown"
    ):
        DistillationLoss(multilabel=True, task_loss=torch.nn.BCEWithLogitsLoss())(student, target)


def test_both_losses_of_several_classes_are_of_one_scale():
    # a class that is there twice changes neither loss
    student, teacher, target = logits(5, 3), logits(5, 3, seed=1), (logits(5, 3, seed=2) > 0).float()
    loss_function = DistillationLoss(multilabel=True)
    once = loss_function.components(student, target, teacher)
    twice = loss_function.components(*(torch.cat([part, part], dim=1) for part in (student, target, teacher)))
    for name, value in once.items():
        torch.testing.assert_close(value, twice[name])


@pytest.mark.parametrize("wrong", [-2, -100, 3])
def test_refuses_a_class_that_does_not_exist(wrong):
    with pytest.raises(IndexError, match=f"Target {wrong} is out of bounds"):
        DistillationLoss()(logits(2, 3), torch.tensor([0, wrong]))


# ---- DistillationLoss: the task loss


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("wrapper", [torch.as_tensor, MetaTensor])
def test_task_loss_is_over_labeled_items(dtype, column, wrapper):
    student, labels = logits(6, 3), torch.tensor([2, UNLABELED, 0, 1, UNLABELED, 2])
    target = wrapper((labels[:, None] if column else labels).to(dtype))
    known = labels != UNLABELED
    expected = log_loss(labels[known], F.softmax(student[known].double(), dim=1), labels=[0, 1, 2])
    losses = DistillationLoss().components(student, target)
    assert list(losses) == ["task_loss"]
    assert type(losses["task_loss"]) is torch.Tensor
    assert losses["task_loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("multilabel", [False, True])
def test_an_unlabeled_item_leaves_no_trace(multilabel):
    student = logits(3, 4).requires_grad_()
    target = torch.tensor([[0, 1, 0, 1], [-1, -1, -1, -1], [1, 0, 0, 0]]) if multilabel else torch.tensor([2, -1, 0])
    loss_function = DistillationLoss(multilabel=multilabel)
    loss_function(student, target).backward()
    assert torch.equal(student.grad[1], torch.zeros(4))
    assert (student.grad[[0, 2]].abs().sum(dim=1) > 0).all()
    with torch.no_grad():
        before = loss_function(student, target)
        student[1] = math.nan
        assert torch.equal(loss_function(student, target), before)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("task_loss", [None, torch.nn.L1Loss()])
def test_a_batch_without_labels_costs_nothing(multilabel, task_loss):
    student = logits(3, 4, dtype=torch.bfloat16).requires_grad_()
    target = torch.full((3, 4) if multilabel else (3,), UNLABELED)
    loss = DistillationLoss(multilabel=multilabel, task_loss=task_loss)(student, target)
    loss.backward()
    assert loss.item() == 0
    assert loss.dtype == torch.float32
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_class_weights_of_cross_entropy():
    student, labels, weights = logits(5, 3), np.array([0, 1, 2, 2, -1]), np.array([1.0, 2.0, 5.0])
    log_p = log_softmax(student.double().numpy(), axis=1)
    per_item = -log_p[np.arange(4), labels[:4]]
    expected = np.average(per_item, weights=weights[labels[:4]])
    for dtype in (torch.float32, torch.float64):
        result = DistillationLoss(class_weights=list(weights))(student.to(dtype), torch.as_tensor(labels))
        assert result.dtype == dtype
        assert result.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_multilabel_task_loss(dtype):
    student = logits(3, 4)
    target = torch.tensor([[0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]]).to(dtype)
    p, y = expit(student.double().numpy()), target.double().numpy()
    terms = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert DistillationLoss(multilabel=True)(student, target).item() == pytest.approx(terms.mean(), rel=1e-5)
    weights = [1.0, 2.0, 3.0, 0.5]
    weighted = DistillationLoss(multilabel=True, class_weights=weights)(student, target)
    positive = log_loss(y.ravel(), p.ravel(), sample_weight=np.where(y, weights, 1).ravel(), normalize=False) / y.size
    assert weighted.item() == pytest.approx(positive, rel=1e-5)


def test_class_weights_are_configuration_and_not_state():
    loss_function = DistillationLoss(class_weights=[1, 2])
    assert loss_function.state_dict() == {}
    assert loss_function.to(torch.float64).class_weights.dtype == torch.float64


def test_task_loss_is_given_the_labeled_rows_as_they_came():
    student, target = logits(4, 3), torch.tensor([[1], [-1], [0], [2]])
    focal = FocalLoss(to_onehot_y=True, use_softmax=True)
    expected = focal(student[[0, 2, 3]], target[[0, 2, 3]])
    torch.testing.assert_close(DistillationLoss(task_loss=focal)(student, target), expected)


def test_task_loss_may_leave_the_mean_to_us():
    student, target = logits(4, 3), torch.tensor([1, -1, 0, 2])
    per_item = DistillationLoss(task_loss=torch.nn.CrossEntropyLoss(reduction="none"))
    torch.testing.assert_close(per_item(student, target), DistillationLoss()(student, target))


# ---- DistillationLoss: the whole


def whole_batch():
    student, teacher = logits(3, 4), logits(3, 4, seed=1)
    features = logits(3, 2, 4, 4), logits(3, 5, 2, 2, seed=1)
    return student, torch.tensor([1, -1, 3]), teacher, *features


def test_components_are_the_plain_losses():
    student, target, teacher, *features = batch = whole_batch()
    losses = DistillationLoss(temperature=2.0, weight=0.3, attention_weight=7.0).components(*batch)
    assert list(losses) == ["task_loss", "distillation_loss", "attention_loss"]
    torch.testing.assert_close(losses["task_loss"], F.cross_entropy(student[[0, 2]], target[[0, 2]]))
    assert losses["distillation_loss"].item() == pytest.approx(oracle(student, teacher, 2.0).mean(), rel=1e-5)
    torch.testing.assert_close(losses["attention_loss"], attention_transfer_loss(*features))


def test_multilabel_reaches_the_distillation_loss():
    student, _, teacher, *_ = whole_batch()
    losses = DistillationLoss(temperature=2.0, multilabel=True).components(student, torch.zeros(3, 4), teacher)
    assert losses["distillation_loss"].item() == pytest.approx(oracle(student, teacher, 2.0, True).mean(), rel=1e-5)


def test_total_weighs_in_one_place():
    loss_function = DistillationLoss(weight=0.25, attention_weight=10.0)
    task, distillation, attention = torch.tensor(4.0), torch.tensor(8.0), torch.tensor(0.5)
    assert loss_function.total({"task_loss": task}) == 4
    assert loss_function.total({"task_loss": task, "distillation_loss": distillation}) == 0.75 * 4 + 0.25 * 8
    whole = {"task_loss": task, "distillation_loss": distillation, "attention_loss": attention}
    assert loss_function.total(whole) == 0.75 * 4 + 0.25 * 8 + 10 * 0.5


def test_forward_is_the_total():
    loss_function, batch = DistillationLoss(weight=0.3, attention_weight=2.0), whole_batch()
    assert torch.equal(loss_function(*batch), loss_function.total(loss_function.components(*batch)))


def test_without_a_teacher_the_weight_does_not_apply():
    student, target, *_ = whole_batch()
    expected = F.cross_entropy(student[[0, 2]], target[[0, 2]])
    torch.testing.assert_close(DistillationLoss(weight=1.0)(student, target), expected)


def test_unlabeled_items_learn_from_the_teacher():
    student, teacher = logits(3, 4).requires_grad_(), logits(3, 4, seed=1)
    DistillationLoss()(student, torch.full((3,), UNLABELED), teacher).backward()
    assert (student.grad.abs().sum(dim=1) > 0).all()


def test_temperature_is_set_between_epochs():
    student, target, teacher, *_ = whole_batch()
    loss_function = DistillationLoss(temperature=4.0)
    for temperature in (3.0, 1.0):
        loss_function.temperature = temperature
        loss = loss_function.components(student, target, teacher)["distillation_loss"]
        assert loss.item() == pytest.approx(oracle(student, teacher, temperature).mean(), rel=1e-5)


def test_whole_loss_under_autocast_is_in_single_precision():
    student, target, teacher, *features = whole_batch()
    halves = [data.to(torch.bfloat16) for data in (student, teacher, *features)]
    loss_function = DistillationLoss(attention_weight=1.0, class_weights=[1, 2, 3, 4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = loss_function.components(halves[0], target, *halves[1:])
    singles = [data.float() for data in halves]
    expected = loss_function.components(singles[0], target, *singles[1:])
    for name, value in expected.items():
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], value)
