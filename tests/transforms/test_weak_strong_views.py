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

import pickle

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, Flip, Lambda, RandFlip, RandFlipd, RandGaussianNoise, RandRotate90, ScaleIntensity

from monai_weckd.engines import DistillationKeys, DistillationTrainer
from monai_weckd.losses import DistillationLoss
from monai_weckd.transforms import WeakStrongViewsd

NOISE = RandGaussianNoise(prob=1.0, std=1.0)
DOUBLE = ScaleIntensity(minv=None, maxv=None, factor=1.0)
TURN = RandRotate90(prob=1.0, max_k=3)


def make_image(seed=0):
    image = MetaTensor(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seed)))
    image.meta["modality"] = "otoscopy"
    return image


def views(**options):
    return WeakStrongViewsd("image", **{"weak": Flip(0), "strong": NOISE, **options})


@pytest.mark.parametrize("teacher_keys", [("a", "b"), "image", ()])
def test_teacher_keys_that_do_not_fit_are_refused(teacher_keys):
    with pytest.raises(ValueError, match=r"teacher_keys: expected another key for each of \('image',\), got .*\. Name"):
        views(teacher_keys=teacher_keys)


def test_keys_of_several_images_need_as_many_of_the_teacher():
    for teacher_keys in ("teacher_image", ("c", "c"), ("c", "a")):
        with pytest.raises(ValueError, match=r"teacher_keys: expected another key for each of \('a', 'b'\)"):
            WeakStrongViewsd(("a", "b"), weak=Flip(0), strong=NOISE, teacher_keys=teacher_keys)


@pytest.mark.parametrize("name", ["weak", "strong", "shared"])
@pytest.mark.parametrize("transform", [[Flip(0)], RandFlipd("image"), 1])
def test_what_is_no_array_transform_is_refused(name, transform):
    with pytest.raises(TypeError, match=rf"{name}: expected an array transform, got {type(transform).__name__}\. Pass"):
        views(**{name: transform})


@pytest.mark.parametrize("name", ["weak", "strong"])
def test_both_views_are_needed(name):
    with pytest.raises(TypeError, match=f"{name}: expected an array transform, got NoneType"):
        views(**{name: None})


def test_student_and_teacher_get_their_own_view():
    image = make_image()
    kept = image.clone()
    item = views(strong=DOUBLE)({"image": image, "label": 2})
    assert torch.equal(item["image"], kept * 2)
    assert torch.equal(item[DistillationKeys.TEACHER_IMAGE], kept.flip(1))
    assert item["label"] == 2
    assert torch.equal(image, kept)


def test_shared_geometry_is_the_same_in_both_views_and_other_geometry_is_not():
    same = views(weak=Lambda(lambda x: x), strong=Lambda(lambda x: x), shared=TURN).set_random_state(0)
    own = views(weak=TURN, strong=RandRotate90(prob=1.0, max_k=3)).set_random_state(0)
    image, turns, differ = make_image(), set(), 0
    for _ in range(20):
        item = same({"image": image})
        assert torch.equal(item["image"], item["teacher_image"])
        turns.add(tuple(item["image"].flatten().tolist()))
        item = own({"image": image})
        differ += not torch.equal(item["image"], item["teacher_image"])
    assert len(turns) == 3
    assert 8 <= differ <= 18  # two in three


def test_weak_and_strong_of_equal_transforms_do_not_draw_the_same_numbers():
    item = views(weak=RandGaussianNoise(prob=1.0), strong=NOISE).set_random_state(0)({"image": make_image()})
    first, second = (item[key] - make_image() for key in ("image", "teacher_image"))
    assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 0.4


def test_all_keys_get_the_same_draws():
    both = WeakStrongViewsd(
        ("flair", "t1"), weak=TURN, strong=NOISE, shared=RandFlip(0.5), teacher_keys=("teacher_flair", "teacher_t1")
    )
    for seed in range(5):
        item = both.set_random_state(seed)({"flair": make_image(), "t1": make_image()})
        assert torch.equal(item["flair"], item["t1"])
        assert torch.equal(item["teacher_flair"], item["teacher_t1"])


def test_a_missing_key_is_an_error_unless_allowed():
    with pytest.raises(KeyError, match="image"):
        views()({"label": 1})
    assert views(allow_missing_keys=True)({"label": 1}) == {"label": 1}


def test_the_seed_decides():
    transform = views(weak=Compose([RandFlip(0.5), TURN]), shared=RandFlip(0.5, spatial_axis=1))
    runs = [[transform({"image": make_image()}) for _ in range(3)] for _ in map(transform.set_random_state, (7, 7, 8))]
    for key in ("image", "teacher_image"):
        first, again, other = ([item[key] for item in run] for run in runs)
        assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
        assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))
        assert not torch.equal(first[0], first[1])


def test_compose_seeds_it_and_datasets_do_not_cache_it():
    data = [{"image": make_image(seed)} for seed in range(2)]
    pipeline = Compose([views()])
    one, two = (pipeline.set_random_state(3)(data[0]) for _ in range(2))
    assert torch.equal(one["image"], two["image"])
    dataset = CacheDataset(data, pipeline, progress=False)
    assert not torch.equal(dataset[0]["image"], dataset[0]["image"])


def test_metadata_stay_and_neither_view_sees_what_happened_to_the_other():
    turned = views(weak=Flip(0), strong=RandRotate90(prob=1.0, max_k=1))({"image": make_image()})
    for key, name in (("image", "RandRotate90"), ("teacher_image", "Flip")):
        assert isinstance(turned[key], MetaTensor)
        assert turned[key].meta["modality"] == "otoscopy"
        assert [operation["class"] for operation in turned[key].applied_operations] == [name]

    def blacken(image):
        image.zero_()
        return image

    for weak, strong, left in ((Lambda(blacken), Flip(0), "image"), (Flip(0), Lambda(blacken), "teacher_image")):
        item = views(weak=weak, strong=strong)({"image": make_image()})
        assert torch.equal(item[left], make_image().flip(1))


def test_plain_arrays_and_tensors_are_taken_too():
    for image in (np.ones((1, 4, 4), dtype=np.float32), torch.ones(1, 4, 4)):
        item = views(strong=DOUBLE)({"image": image})
        assert (item["image"] == 2).all()
        assert (item["teacher_image"] == 1).all()


def test_a_pickled_copy_goes_on_alike():
    transform = views(weak=TURN).set_random_state(1)
    copy = pickle.loads(pickle.dumps(transform))
    for _ in range(3):
        one, two = transform({"image": make_image()}), copy({"image": make_image()})
        assert torch.equal(one["image"], two["image"])
        assert torch.equal(one["teacher_image"], two["teacher_image"])


def load_all(workers):
    data = [{"image": make_image(seed), "label": seed % 2} for seed in range(4)]
    torch.manual_seed(0)
    dataset = Dataset(data, Compose([views(weak=TURN)]).set_random_state(0))
    return list(DataLoader(dataset, batch_size=2, num_workers=workers))


def test_loader_with_workers_gives_batches_that_the_seed_decides():
    first, again = load_all(2), load_all(2)
    for one, two in zip(first, again, strict=True):
        assert one["image"].shape == one["teacher_image"].shape == (2, 3, 8, 8)
        assert isinstance(one["teacher_image"], MetaTensor)
        assert torch.equal(one["image"], two["image"])
        assert torch.equal(one["teacher_image"], two["teacher_image"])
    # the two workers draw other numbers
    noise = [batch["image"][0] - make_image(seed) for batch, seed in zip(first, (0, 2), strict=True)]
    assert not torch.allclose(noise[0], noise[1])


def test_the_trainer_shows_the_strong_view_to_the_student_and_the_weak_one_to_the_teacher():
    torch.manual_seed(0)
    student, teacher = (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)) for _ in range(2))
    seen = {}
    for name, network in (("student", student), ("teacher", teacher)):
        network.register_forward_pre_hook(lambda _, inputs, name=name: seen.setdefault(name, inputs[0].clone()))
    data = [{"image": make_image(seed), "label": seed % 2} for seed in range(4)]
    loader = DataLoader(Dataset(data, views(strong=DOUBLE)), batch_size=4)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    DistillationTrainer(
        "cpu",
        2,
        train_data_loader=loader,
        network=student,
        optimizer=optimizer,
        loss_function=DistillationLoss(),
        teacher=teacher,
    ).run()
    images = torch.stack([make_image(seed).as_tensor() for seed in range(4)])
    assert torch.equal(torch.as_tensor(seen["student"]), images * 2)
    assert torch.equal(torch.as_tensor(seen["teacher"]), images.flip(2))
