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
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor
from scipy.ndimage import map_coordinates
from torch.autograd import gradcheck

from monai_weckd.losses.attention import attention_map, attention_transfer_loss

PLANE, VOLUME = (5, 4), (4, 3, 5)


def features(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def resized(image, size):
    """Linear interpolation between pixel centers, the border continued outwards."""
    axes = [(np.arange(new) + 0.5) * old / new - 0.5 for old, new in zip(image.shape, size, strict=True)]
    return map_coordinates(image, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")


def oracle(student, teacher):
    """The loss of each item, in double precision."""
    losses = []
    for one, other in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        ours = np.einsum("c...,c...->...", one, one)
        theirs = resized(np.einsum("c...,c...->...", other, other), ours.shape)
        difference = ours / np.sqrt((ours**2).sum()) - theirs / np.sqrt((theirs**2).sum())
        losses.append(np.sqrt((difference**2).sum()))
    return np.array(losses)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 4, 4, 4)])
def test_refuses_what_is_no_feature_map(shape):
    with pytest.raises(ValueError, match=r"^features: expected the shape \(B, C, H, W\) .* Name a convolutional layer"):
        attention_map(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"^features: expected the shape"):
        attention_transfer_loss(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (2, 2, 4, 4, 4)])
def test_refuses_another_batch_or_dimension(shape):
    with pytest.raises(ValueError, match=r"^teacher_features: expected the batch size .* \(2, 2, 4, 4\), got \("):
        attention_transfer_loss(torch.zeros(2, 2, 4, 4), torch.zeros(shape))


@pytest.mark.parametrize("reduction", ["average", "", None])
def test_refuses_an_unknown_reduction(reduction):
    with pytest.raises(ValueError, match=f'^reduction: expected "mean", "sum" or "none", got {reduction!r}'):
        attention_transfer_loss(features(2, 2, 4, 4), features(2, 2, 4, 4), reduction=reduction)


@pytest.mark.parametrize("shape", [PLANE, VOLUME])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_map_equals_numpy(shape, dtype):
    data = features(2, 6, *shape, dtype=dtype)
    result = attention_map(data)
    assert result.shape == (2, *shape)
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(result.numpy(), (data.double().numpy() ** 2).sum(axis=1), rtol=1e-5)


def test_map_of_half_precision_does_not_overflow():
    assert attention_map(torch.full((1, 2, 1, 1), 1000.0, dtype=torch.float16)).item() == 2e6


@pytest.mark.parametrize("shape", [PLANE, VOLUME])
@pytest.mark.parametrize("teacher_size", ["same", "smaller", "larger"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_loss_equals_numpy(shape, teacher_size, dtype):
    size = {"same": shape, "smaller": tuple(n - 1 for n in shape), "larger": tuple(2 * n + 1 for n in shape)}
    student = features(3, 6, *shape, dtype=dtype)
    teacher = features(3, 2, *size[teacher_size], seed=1, dtype=dtype)
    expected = oracle(student, teacher)
    precision = 1e-12 if dtype == torch.float64 else 1e-5
    for reduction, value in (("none", expected), ("mean", expected.mean()), ("sum", expected.sum())):
        result = attention_transfer_loss(student, teacher, reduction=reduction)
        assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        np.testing.assert_allclose(result.numpy(), value, rtol=precision)


def test_loss_is_root_two_for_attention_elsewhere():
    student, teacher = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    student[..., 0, 0], teacher[..., 1, 1] = -3.0, 7.0
    assert attention_transfer_loss(student, teacher).item() == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 2)])
@pytest.mark.parametrize("resize", [False, True])
def test_gradient(shape, resize):
    student = features(2, 3, *shape, dtype=torch.float64).requires_grad_()
    teacher = features(2, 4, *(n + resize for n in shape), seed=1, dtype=torch.float64)
    assert gradcheck(lambda data: attention_transfer_loss(data, teacher, reduction="none"), student)


@pytest.mark.parametrize("dead", [False, True])
def test_gradient_is_zero_where_both_agree(dead):
    student = features(2, 3, *PLANE).mul(0 if dead else 1).requires_grad_()
    loss = attention_transfer_loss(student, student.detach().clone())
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_gradient_is_finite_for_a_dead_student():
    student = torch.zeros(2, 3, *PLANE, requires_grad=True)
    loss = attention_transfer_loss(student, features(2, 3, *PLANE))
    loss.backward()
    assert loss.item() == pytest.approx(1)
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_no_gradient_flows_into_the_teacher():
    student, teacher = features(2, 3, *PLANE).requires_grad_(), features(2, 3, *PLANE, seed=1).requires_grad_()
    attention_transfer_loss(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_accepts_a_teacher_in_inference_mode():
    student = features(2, 3, *PLANE).requires_grad_()
    with torch.inference_mode():
        teacher = features(2, 3, 3, 3, seed=1) * 2
    attention_transfer_loss(student, teacher).backward()
    assert student.grad.abs().sum() > 0


def test_autocast_keeps_single_precision():
    student, teacher = features(2, 3, *PLANE, dtype=torch.bfloat16), features(2, 3, 3, 3, seed=1, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = attention_transfer_loss(student, teacher)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, attention_transfer_loss(student.float(), teacher.float()))


def test_metatensor_becomes_a_tensor():
    student, teacher = features(2, 3, *PLANE), features(2, 3, 3, 3, seed=1)
    result = attention_transfer_loss(MetaTensor(student), MetaTensor(teacher))
    assert type(result) is torch.Tensor
    assert type(attention_map(MetaTensor(student))) is torch.Tensor
    assert torch.equal(result, attention_transfer_loss(student, teacher))


@settings(max_examples=50, deadline=None)
@given(
    data=arrays(np.float32, (2, 2, 3, 2, 2), elements=st.floats(-1e4, 1e4, width=32)),
    scale=st.floats(0.1, 10),
)
def test_bounded_and_blind_to_scale_and_sign(data, scale):
    student, teacher = torch.from_numpy(data)
    loss = attention_transfer_loss(student, teacher, reduction="none")
    assert torch.isfinite(loss).all()
    assert (loss >= 0).all()
    assert (loss <= math.sqrt(2) + 1e-5).all()
    scaled = attention_transfer_loss(-student * scale, teacher, reduction="none")
    alive = student.square().sum(dim=(1, 2, 3)) > 1e-6  # far from the norm at which the division is capped
    torch.testing.assert_close(scaled[alive], loss[alive], atol=1e-3, rtol=1e-3)
