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

import multiprocessing
import pickle
import signal
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from dicom_files import write_series
from monai.data import CacheDataset, DataLoader
from monai.transforms import (
    Compose,
    CopyItemsd,
    Lambdad,
    RandFlipd,
    Resized,
    ScaleIntensityRanged,
)
from PIL import Image

from monai_weckd.data import ByteCacheDataset, StageBatchSampler, StageDataset
from monai_weckd.data.content import content_key, describe
from monai_weckd.data.stage_loader import collate_batch
from monai_weckd.transforms import LoadMedicalImaged


class Counted:
    """Count how often images are loaded, outside of what a cache's key is made of."""

    calls = 0
    recipe = "leaves the item as it is"

    def __call__(self, data):
        Counted.calls += 1
        return data


@pytest.fixture(autouse=True)
def counter():
    Counted.calls = 0


def pictures(folder, count=6, size=(20, 16), seed=0):
    rng = np.random.default_rng(seed)
    items = []
    for index in range(count):
        path = folder / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        items.append({"image": str(path), "label": index % 2, "id": path.name})
    return items


def pipeline(size=(12, 10), *extra):
    return Compose(
        [
            Counted(),
            LoadMedicalImaged("image", channels=3),
            Resized("image", spatial_size=size, mode="area"),
            ScaleIntensityRanged("image", a_min=0, a_max=255, b_min=-1, b_max=1),
            *extra,
        ]
    )


def test_args_validation(tmp_path):
    items = pictures(tmp_path)
    with pytest.raises(ValueError, match=r"value_range: expected \(low, high\), got \(1, -1\)"):
        ByteCacheDataset(items, pipeline(), value_range=(1, -1))
    with pytest.raises(ValueError, match="data: expected at least one item, got none"):
        ByteCacheDataset([], pipeline())
    with pytest.raises(ValueError, match=r"memory_mb: expected at least 0 for 6 images, got 0.001"):
        ByteCacheDataset(items, pipeline(), value_range=(-1, 1), memory_mb=0.001)
    with pytest.raises(ValueError, match="transform: expected to change 'image' alone, got label_2 changed"):
        ByteCacheDataset(items, pipeline((8, 8), CopyItemsd("label", names="label_2")))
    with pytest.raises(ValueError, match="transform: expected to change 'image' alone, got label changed"):
        ByteCacheDataset(items, pipeline((8, 8), Lambdad("label", lambda label: label + 1.5)))


def test_images_of_different_sizes_are_refused_by_name(tmp_path):
    items = [*pictures(tmp_path, 2), {"image": str(tmp_path / "odd.png"), "label": 0, "id": "odd.png"}]
    Image.new("RGB", (5, 5)).save(tmp_path / "odd.png")
    load = Compose([LoadMedicalImaged("image", channels=3)])
    with pytest.raises(ValueError, match=r"odd.png: expected the shape \(3, 16, 20\) of the first image, got"):
        ByteCacheDataset(items, load, value_range=(0, 255))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_what_cannot_be_kept_is_refused(value):
    load = Lambdad("image", lambda number: torch.full((1, 2, 2), number))
    ByteCacheDataset([{"image": 1.0}], load)
    with pytest.raises(ValueError, match="expected finite values, below 65,504 without a value_range, got others"):
        ByteCacheDataset([{"image": 1.0}, {"image": value}], load)


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("value_range", [(-1, 1), None])
def test_images_agree_with_those_of_a_cache_dataset(tmp_path, where, value_range):
    items = pictures(tmp_path)
    cache = ByteCacheDataset(
        items, pipeline(), value_range=value_range, cache_dir=tmp_path / "cache" if where == "file" else None
    )
    reference = CacheDataset(items, pipeline(), progress=False)
    tolerance = 2 / 510 + 1e-6 if value_range else 2**-11
    for item, expected in zip(cache, reference, strict=True):
        assert (item["image"] - expected["image"]).abs().max() <= tolerance
        assert {**item, "image": 0} == {**expected, "image": 0}
        assert type(item["image"]) is torch.Tensor
        assert item["image"].dtype == torch.float32
    torch.testing.assert_close(cache.gather([4, 0]), torch.stack([cache[4]["image"], cache[0]["image"]]))


def test_whole_numbers_over_their_own_range_are_kept_exactly():
    numbers = torch.arange(256.0).reshape(1, 16, 16)
    cache = ByteCacheDataset([{"image": 0}], Lambdad("image", lambda _: numbers), value_range=(0, 255))
    assert torch.equal(cache[0]["image"], numbers)
    clipped = ByteCacheDataset([{"image": 0}], Lambdad("image", lambda _: numbers), value_range=(10, 20))
    assert (clipped[0]["image"] - numbers.clamp(10, 20)).abs().max() <= 10 / 510 + 1e-6


def test_random_transforms_run_anew_on_a_kept_image(tmp_path):
    flip = RandFlipd("image", prob=0.5).set_random_state(seed=0)
    cache = ByteCacheDataset(pictures(tmp_path), pipeline((12, 10), flip), value_range=(-1, 1))
    assert not cache.whole_batches
    plain = cache.gather([0])[0]
    seen = [torch.equal(cache[0]["image"], plain) for _ in range(30)]
    assert 5 < sum(seen) < 25
    assert Counted.calls == 7  # each item once, and the first one for its shape


@pytest.mark.parametrize("where", ["memory", "file"])
def test_volumes_and_dicom_series_are_kept_like_pictures(tmp_path, where):
    volume = np.random.default_rng(0).integers(0, 500, (6, 7, 3), dtype=np.int16)
    nibabel.Nifti1Image(volume, np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    (tmp_path / "series").mkdir()
    write_series(tmp_path / "series", volume + 1, np.eye(4))
    load = Compose([LoadMedicalImaged("image"), Resized("image", spatial_size=(6, 7, 3))])
    items = [{"image": str(tmp_path / name), "label": 0} for name in ("a.nii.gz", "series")]
    cache = ByteCacheDataset(items, load, cache_dir=tmp_path / "cache" if where == "file" else None)
    for index, item in enumerate(items):
        assert torch.equal(cache[index]["image"], load(dict(item))["image"].as_subclass(torch.Tensor).half().float())
    assert not torch.equal(cache[0]["image"], cache[1]["image"])


def test_a_file_is_found_again_and_only_new_images_are_decoded(tmp_path):
    items = pictures(tmp_path)
    first = ByteCacheDataset(items[:4], pipeline(), value_range=(-1, 1), cache_dir=tmp_path / "cache")
    assert Counted.calls == 5
    again = ByteCacheDataset(items[::-1], pipeline(), value_range=(-1, 1), cache_dir=tmp_path / "cache")
    assert Counted.calls == 5 + 3  # two new ones, and the first one for its shape
    assert torch.equal(again.gather([5, 2]), first.gather([0, 3]))


def test_the_key_is_the_content_and_not_the_name(tmp_path):
    items = pictures(tmp_path, 3)
    options = {"value_range": (-1, 1), "cache_dir": tmp_path / "cache"}
    ByteCacheDataset(items, pipeline(), **options)
    Path(items[1]["image"]).rename(tmp_path / "renamed.png")
    pictures(tmp_path, 1, seed=7)  # another picture under the name 0.png
    Counted.calls = 0
    renamed = [{**items[1], "image": str(tmp_path / "renamed.png")}]
    cache = ByteCacheDataset([*renamed, items[0]], pipeline(), **options)
    assert Counted.calls == 2  # for the shape, and for the new picture
    assert torch.allclose(cache[1]["image"], pipeline()(items[0])["image"], atol=2 / 510 + 1e-6)


def test_another_transform_or_range_has_its_own_file(tmp_path):
    items, cache = pictures(tmp_path), tmp_path / "cache"
    for number, (size, value_range) in enumerate([((12, 10), (-1, 1)), ((8, 8), (-1, 1)), ((8, 8), None)], start=1):
        ByteCacheDataset(items, pipeline(size), value_range=value_range, cache_dir=cache)
        assert len(list(cache.iterdir())) == number
    ByteCacheDataset(items, pipeline((8, 8)), cache_dir=cache)
    assert len(list(cache.iterdir())) == 3


def test_a_description_is_of_settings_but_not_of_random_states():
    one, two = RandFlipd("image", prob=0.5), RandFlipd("image", prob=0.5)
    two.set_random_state(3)
    assert describe(one) == describe(two) != describe(RandFlipd("image", prob=0.4))
    assert describe([np.arange(3), {"b": 1, "a": {1, 2}}]) == describe([np.arange(3), {"a": {2, 1}, "b": 1}])
    assert describe(torch.zeros(2)) != describe(torch.zeros(2, dtype=torch.float64)) != describe(torch.zeros(3))


def _fill(folder, items, barrier):
    torch.set_num_threads(1)  # as a loader's worker does: a forked process has none of its parent's other threads
    barrier.wait()
    ByteCacheDataset(items, pipeline(), value_range=(-1, 1), cache_dir=folder)


def test_processes_that_fill_one_file_at_once_decode_nothing_twice(tmp_path):
    items = pictures(tmp_path, 12)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    workers = [
        context.Process(target=_fill, args=(tmp_path / "cache", part, barrier)) for part in (items[:9], items[3:])
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    (folder,) = (tmp_path / "cache").iterdir()
    assert len((folder / "sums.txt").read_text().splitlines()) == 12
    cache = ByteCacheDataset(items, pipeline(), value_range=(-1, 1), cache_dir=tmp_path / "cache")
    assert torch.equal(
        cache.gather(range(12)), ByteCacheDataset(items, pipeline(), value_range=(-1, 1)).gather(range(12))
    )


# where it is set, loading comes to a halt at an image in the middle
_halted = None


def _fill_and_halt(folder, items, halted=None):
    global _halted  # not an argument of the transform, which decides about the file's name
    torch.set_num_threads(1)
    _halted = halted
    halting = Compose([Lambdad("image", _halt), *pipeline().transforms])
    ByteCacheDataset(items, halting, value_range=(-1, 1), cache_dir=folder)


def _halt(path):
    if _halted is not None and path.endswith("4.png"):
        _halted.set()
        signal.pause()
    return path


_halt.recipe = "leaves the path as it is"


def test_a_killed_process_leaves_a_file_that_the_next_one_completes(tmp_path):
    items = pictures(tmp_path, 8)
    context = multiprocessing.get_context("fork")
    halted = context.Event()
    worker = context.Process(target=_fill_and_halt, args=(tmp_path / "cache", items, halted))
    worker.start()
    halted.wait()
    worker.kill()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    _fill_and_halt(tmp_path / "cache", items)
    (folder,) = (tmp_path / "cache").iterdir()
    assert len((folder / "sums.txt").read_text().splitlines()) == 8


@pytest.mark.parametrize("where", ["memory", "file"])
def test_another_process_gets_the_same_and_a_mapped_file_is_not_copied(tmp_path, where):
    cache = ByteCacheDataset(
        pictures(tmp_path, 40), pipeline((64, 64)), value_range=(-1, 1), cache_dir=tmp_path if where == "file" else None
    )
    text = pickle.dumps(cache)
    assert torch.equal(pickle.loads(text).gather([1, 5]), cache.gather([1, 5]))
    assert (len(text) < cache.rows.nbytes / 4) == (where == "file")


def test_several_threads_give_the_same_rows(tmp_path):
    items = pictures(tmp_path, 9)
    one, three = (ByteCacheDataset(items, pipeline(), value_range=(-1, 1), num_workers=n) for n in (1, 3))
    assert torch.equal(one.gather(range(9)), three.gather(range(9)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_it_serves_an_ordinary_loader(tmp_path, num_workers):
    cache = ByteCacheDataset(pictures(tmp_path), pipeline(), value_range=(-1, 1), cache_dir=tmp_path / "cache")
    batches = list(DataLoader(cache, batch_size=4, num_workers=num_workers))
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), cache.gather(range(6)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stage_gets_the_same_batches_whole_or_item_by_item(tmp_path, num_workers):
    items = pictures(tmp_path)
    whole = ByteCacheDataset(items, pipeline(), value_range=(-1, 1))
    single = ByteCacheDataset(items, pipeline((12, 10), RandFlipd("image", prob=0.0)), value_range=(-1, 1))
    assert whole.whole_batches
    assert not single.whole_batches
    found = []
    for dataset in (whole, single):
        sampler = StageBatchSampler([0, 2, 3], [1, 4], batch_size=2, pool_ratio=1, num_batches=3, seed=0, stage=1)
        loader = DataLoader(
            StageDataset(dataset, {0: 0, 2: 0, 3: 1}),
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=partial(collate_batch, torch.utils.data.default_collate),
        )
        found.append(list(loader))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one["image"], other["image"])
        for key in ("label", "index", "view"):
            assert torch.equal(one[key], other[key])
        assert (one["label"] == -1).tolist() == [False, False, True, True]


def test_the_content_of_a_folder_and_of_an_archive_counts(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    before = content_key(folder, {})
    (folder / "b").write_bytes(b"2")
    assert content_key(folder, {}) != before
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    seen = {}
    keys = [content_key(f"{tmp_path}/x.npz::train/{number}", seen) for number in (0, 1)]
    assert keys[0] != keys[1]
    assert len(seen) == 1
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    assert content_key(f"{tmp_path}/x.npz::train/0", {}) != keys[0]


def test_a_damaged_row_is_decoded_anew(tmp_path, caplog):
    items = pictures(tmp_path, 4)
    expected = ByteCacheDataset(items, pipeline(), value_range=(-1, 1), cache_dir=tmp_path / "cache").gather(range(4))
    (folder,) = (tmp_path / "cache").iterdir()
    content = bytearray((folder / "rows.bin").read_bytes())
    content[len(content) // 2] ^= 0x80
    (folder / "rows.bin").unlink()  # a mapped file must not change
    (folder / "rows.bin").write_bytes(content)
    cache = ByteCacheDataset(items, pipeline(), value_range=(-1, 1), cache_dir=tmp_path / "cache")
    assert torch.equal(cache.gather(range(4)), expected)
    assert "1 of 4 arrays are damaged and made anew" in caplog.text


@pytest.mark.parametrize("in_file", [False, True])
def test_items_of_several_images_give_them_one_by_one(tmp_path, in_file):
    items = pictures(tmp_path)
    paths = [item["image"] for item in items]
    bags = [{"images": tuple(paths[:4]), "id": "a"}, {"images": tuple(paths[4:]), "id": "b"}]
    options = {"value_range": (0, 255), "cache_dir": tmp_path / "cache" if in_file else None}
    single, dataset = (ByteCacheDataset(given, [LoadMedicalImaged("image")], **options) for given in (items, bags))
    assert len(dataset) == 2
    each = dataset.each_image()
    assert [item["id"] for item in each.data] == list("aaaabb")
    assert torch.equal(each.gather(range(6)), single.gather(range(6)))
    turned = dataset.select([1, 0], bags[::-1]).each_image()
    assert torch.equal(turned.gather(range(6)), single.gather([4, 5, 0, 1, 2, 3]))
    with pytest.raises(ValueError, match=r"^data: expected items of one image, got 6 images in 2 items\. Pool their"):
        dataset.gather([0])
