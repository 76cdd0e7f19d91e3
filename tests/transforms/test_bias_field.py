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

import os
import sys
import threading
import time

import itk
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor, PersistentDataset
from monai.transforms import Compose, RandFlipd

from monai_weckd.transforms import bias_field
from monai_weckd.transforms.bias_field import BiasFieldCorrection, BiasFieldCorrectiond


def tissues(shape):
    """Two nested tissues in air, and a smooth field of another family than the splines that shall find it."""
    at = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    radius = (at**2).sum(axis=0)
    truth = np.where(radius < 0.3, 100.0, np.where(radius < 0.8, 60.0, 0.0))
    field = np.exp(0.4 * at[0] + 0.3 * at[1] * at[-1] - 0.3 * at[-1] ** 2)
    noise = 1 + 0.01 * np.random.default_rng(0).normal(size=shape)
    return truth, (truth * field * noise).astype(np.float32)


def variation(image, inside):
    return image[inside].std() / image[inside].mean()


FAST = {"num_iterations": (20, 20, 20)}
TRUTH, IMAGE = tissues((64, 56))
IMAGE = IMAGE[None]


def test_argument_validation():
    with pytest.raises(ValueError, match=r"shrink_factor: expected 1 or more, got 0\. Pass 1"):
        BiasFieldCorrection(0)
    with pytest.raises(ValueError, match=r"mask: expected 'otsu' or None, got 'head'\. Pass a mask"):
        BiasFieldCorrection(mask="head")
    for counts in ((), (50, 0)):
        with pytest.raises(ValueError, match=r"num_iterations: expected 1 or more for each level, got .*\. Leave out"):
            BiasFieldCorrection(num_iterations=counts)


@pytest.mark.parametrize("shape", [(8, 8), (1, 8), (1, 8, 1), (1, 8, 8, 8, 8)])
def test_image_without_channels_or_with_too_many_axes_is_refused(shape):
    with pytest.raises(ValueError, match=r"img: expected \(C, X, Y\) or \(C, X, Y, Z\), got .*\. Add the channel"):
        BiasFieldCorrection()(np.ones(shape))


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_values_without_a_logarithm_are_refused(value):
    image = IMAGE.copy()
    image[0, 30, 30] = value
    with pytest.raises(ValueError, match=r"img: expected finite values from 0 up, got .*\. Correct the bias field bef"):
        BiasFieldCorrection()(image)


def test_masks_that_do_not_fit_are_refused():
    correct = BiasFieldCorrection()
    with pytest.raises(ValueError, match=r"mask: expected \(1, 64, 56\) or \(1, 64, 56\), got \(1, 8, 8\)\. Resample"):
        correct(IMAGE, np.ones((1, 8, 8)))
    with pytest.raises(ValueError, match=r"mask: expected voxels above 0 among the samples, got none\. Correct"):
        correct(IMAGE, np.zeros((1, 64, 56)))
    with pytest.raises(KeyError, match=r"mask: expected 'otsu', None or a key of the item, got 'head'\. Load the mask"):
        BiasFieldCorrectiond("image", mask="head")({"image": IMAGE})


@pytest.mark.parametrize("shape", [(96, 80), (24, 20), (48, 44, 36), (40, 40, 5), (40, 40, 1)])
def test_known_field_is_taken_away(shape):
    truth, image = tissues(shape[:2] if shape[-1] == 1 else shape)
    truth, image = truth.reshape(shape), image.reshape(shape)
    out = BiasFieldCorrection()(image[None])[0]
    for value in (60, 100):
        # the noise of 1 % is all that should remain
        assert variation(image, truth == value) > 0.09
        assert variation(out, truth == value) < 0.02
    assert np.corrcoef(image.ravel(), truth.ravel())[0, 1] < 0.985
    assert np.corrcoef(out.ravel(), truth.ravel())[0, 1] > 0.9995
    assert (out[image == 0] == 0).all()


@pytest.mark.parametrize("shape", [(40, 33), (24, 20, 17)])
def test_field_is_evaluated_as_itk_does(shape):
    _, image = tissues(shape)
    mask = itk.image_from_array((image > 0).astype(np.uint8))
    source = itk.image_from_array(image)
    n4 = itk.N4BiasFieldCorrectionImageFilter[type(source), type(mask), type(source)].New(source, MaskImage=mask)
    n4.SetNumberOfFittingLevels(3)
    n4.SetMaximumNumberOfIterations([20, 20, 20])
    threads = itk.get_nthreads()
    itk.set_nthreads(1)
    n4.Update()
    itk.set_nthreads(threads)
    out = BiasFieldCorrection(1, None, **FAST)(image[None])[0]
    np.testing.assert_allclose(out, itk.array_from_image(n4.GetOutput()), rtol=1e-4)


def test_samples_lie_where_they_were_taken(monkeypatch):
    # control points on a line make a spline on that line: 0 at the first sample, 2 at the last
    lattice = np.repeat(np.arange(-1.0, 4.0)[:, None], 5, axis=1)
    taken = []
    monkeypatch.setattr(BiasFieldCorrection, "_fit", lambda self, samples, inside: taken.append(samples) or lattice)
    image = tissues((67, 40))[1][None] + 1
    field = np.log(image / BiasFieldCorrection()(image))[0]
    # 67 voxels, every 4th from the second on, are 17 samples; 40 voxels, every 2nd from the first on, are 20
    assert np.array_equal(taken[0], image[0, 1::4, ::2])
    expected = np.interp(np.arange(67), np.arange(1, 67, 4), np.linspace(0, 2, 17))
    np.testing.assert_allclose(field, np.repeat(expected[:, None], 40, axis=1), atol=1e-5)


def test_mask_says_where_the_field_is_estimated():
    image = IMAGE.copy()
    left = np.zeros_like(image)
    left[:, :32] = 1
    spoiled = image.copy()
    spoiled[:, 33:] *= np.linspace(1, 9, 31)[None, :, None].astype(np.float32)
    # sampled at every 3rd: none of what was spoiled may change the other half
    correct = BiasFieldCorrection(**FAST)
    assert np.array_equal(correct(image, left)[:, :32], correct(spoiled, left)[:, :32])
    assert not np.array_equal(correct(image)[:, :32], correct(spoiled)[:, :32])
    item = BiasFieldCorrectiond("image", mask="side", **FAST)({"image": image, "side": torch.from_numpy(left)})
    assert np.array_equal(item["image"], correct(image, left))


def test_otsu_keeps_the_background_out():
    image = IMAGE + np.random.default_rng(1).uniform(1, 6, IMAGE.shape).astype(np.float32)
    head = TRUTH[None] > 0
    otsu, every = BiasFieldCorrection(**FAST)(image), BiasFieldCorrection(mask=None, **FAST)(image)
    assert variation(otsu, TRUTH[None] == 60) < 0.05
    assert not np.array_equal(otsu, every)
    np.testing.assert_allclose(otsu, BiasFieldCorrection(**FAST)(image, head), rtol=0.05)


def test_channels_are_corrected_each_by_itself():
    both = np.concatenate([IMAGE, IMAGE[:, ::-1] * 3])
    out = BiasFieldCorrection(**FAST)(both)
    assert np.array_equal(out[:1], BiasFieldCorrection(**FAST)(both[:1]))
    assert np.array_equal(out[1:], BiasFieldCorrection(**FAST)(both[1:]))


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_channel_of_one_value_is_left_as_it_is(value):
    image = np.concatenate([np.full_like(IMAGE, value), IMAGE])
    out = BiasFieldCorrection(**FAST)(image)
    assert (out[0] == value).all()
    assert not np.array_equal(out[1], image[1])


def test_bits_do_not_depend_on_the_number_of_threads():
    threads, outs = itk.get_nthreads(), []
    for count in (1, 2, 4):
        itk.set_nthreads(count)
        outs.append(BiasFieldCorrection(**FAST)(IMAGE))
        assert itk.get_nthreads() == count
    itk.set_nthreads(threads)
    assert np.array_equal(outs[0], outs[1])
    assert np.array_equal(outs[0], outs[2])


@pytest.mark.slow
def test_worker_processes_give_the_same():
    data = [{"image": torch.from_numpy(IMAGE * scale)} for scale in (1, 2, 3)]
    correct = BiasFieldCorrectiond("image", **FAST)
    expected = [correct(item)["image"] for item in data]
    # a forked worker would have none of the threads that ITK has started here
    loader = DataLoader(Dataset(data, correct), num_workers=2, multiprocessing_context="spawn")
    found = [batch["image"][0] for batch in loader]
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_no_process_is_forked_while_a_thread_corrects(monkeypatch):
    """The threads of ITK that the other one uses would not exist in it, and both processes would wait for them."""
    correct, began, seen = BiasFieldCorrection(**FAST), threading.Event(), []

    def fit(self, samples, inside):
        began.set()
        time.sleep(0.5)
        seen.append("corrected")
        return np.zeros((4, 4))

    monkeypatch.setattr(BiasFieldCorrection, "_fit", fit)
    threads = itk.get_nthreads()
    others = [threading.Thread(target=correct, args=(IMAGE,)) for _ in range(2)]
    for other in others:
        other.start()
    assert began.wait(60)
    child = os.fork()
    if not child:
        os._exit(itk.get_nthreads() != threads)
    assert len(seen) in (1, 2)  # all that had begun
    assert os.waitpid(child, 0)[1] == 0
    for other in others:
        other.join()
    assert itk.get_nthreads() == threads
    with bias_field._one_thread, bias_field._one_thread:
        assert itk.get_nthreads() == 1
    assert itk.get_nthreads() == threads


def test_metadata_stay_and_the_input_is_not_changed():
    image = MetaTensor(torch.from_numpy(IMAGE.copy()), affine=torch.diag(torch.tensor([2.0, 3, 1, 1])))
    image.meta["modality"] = "MR"
    out = BiasFieldCorrectiond(["image", "none"], allow_missing_keys=True, **FAST)({"image": image})["image"]
    assert isinstance(out, MetaTensor)
    assert out.meta["modality"] == "MR"
    assert torch.equal(out.affine, image.affine)
    assert out.dtype == torch.float32
    assert np.array_equal(image.numpy(), IMAGE)
    plain = BiasFieldCorrection(**FAST)(torch.from_numpy(IMAGE))
    assert type(plain) is torch.Tensor
    assert torch.equal(plain, out.as_tensor())


def test_cached_datasets_run_the_filter_once_for_each_item(monkeypatch, tmp_path):
    runs = []
    fit = BiasFieldCorrection._fit
    monkeypatch.setattr(BiasFieldCorrection, "_fit", lambda self, *args: runs.append(1) or fit(self, *args))
    data = [{"image": torch.from_numpy(IMAGE * scale)} for scale in (1, 2)]
    transform = Compose([BiasFieldCorrectiond("image", **FAST), RandFlipd("image", prob=0.5)])
    for dataset in (
        CacheDataset(data, transform, progress=False),
        PersistentDataset(data, transform, cache_dir=tmp_path),
        PersistentDataset(data, transform, cache_dir=tmp_path),
    ):
        for _ in range(3):
            assert len([dataset[index] for index in range(2)]) == 2
    # two for the cache, two for the first of the two datasets on disk, none for the second
    assert len(runs) == 4


def test_progress_is_silent_without_a_terminal(capsys, monkeypatch):
    silent = BiasFieldCorrection(**FAST)(IMAGE)
    assert np.array_equal(BiasFieldCorrection(progress=True, **FAST)(IMAGE), silent)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    BiasFieldCorrection(progress=True, **FAST)(IMAGE)
    assert "N4" in capsys.readouterr().err
    monkeypatch.setattr(bias_field, "_HAS_TQDM", False)
    assert np.array_equal(BiasFieldCorrection(progress=True, **FAST)(IMAGE), silent)
