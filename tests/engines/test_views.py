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
from chain_runs import make_chain, make_items
from monai.engines import IterationEvents
from monai.utils import CommonKeys

from monai_weckd.engines import ChainEvents, DistillationKeys, PrepareViews
from monai_weckd.networks import fingerprint
from monai_weckd.transforms import BatchAugment, BatchRandFlip, BatchRandGaussianNoise

WEAK = [BatchRandFlip(0.5, (0, 1))]
STRONG = [*WEAK, BatchRandGaussianNoise(0.5, prob=1.0)]


def test_a_batch_without_views_is_refused():
    with pytest.raises(ValueError, match=r"view: expected a seed for each item, got a batch of \['image', 'label'\]"):
        PrepareViews(BatchAugment(WEAK))({"image": torch.zeros(1, 1, 2, 2), "label": torch.zeros(1)}, "cpu")


def test_student_and_teacher_get_their_own_views_of_one_image():
    images, views = torch.rand(6, 3, 8, 8), torch.arange(6)
    batch = {"image": images, "label": torch.arange(6), "view": views}
    prepare = PrepareViews(BatchAugment(STRONG), teacher_augment=BatchAugment(WEAK))
    student, labels = prepare(batch, "cpu")
    assert torch.equal(student, BatchAugment(STRONG)(images, views))
    assert torch.equal(batch[DistillationKeys.TEACHER_IMAGE], BatchAugment(WEAK)(images, views))
    assert labels.tolist() == list(range(6))
    same, _ = PrepareViews(BatchAugment(WEAK))({"image": images, "label": labels, "view": views}, "cpu")
    assert torch.equal(same, batch[DistillationKeys.TEACHER_IMAGE])


@pytest.mark.parametrize("teacher_cache", [False, True])
def test_the_teacher_of_a_chain_sees_the_weak_view(teacher_cache):
    items = make_items()
    seen = []
    trainer = make_chain(
        items=items,
        noise=0.0,
        pool_ratio=1,
        views=3,
        teacher_cache=teacher_cache,
        prepare_batch=PrepareViews(BatchAugment(STRONG), teacher_augment=BatchAugment(WEAK)),
    )

    def compare(engine):
        if engine.teacher is None:
            return
        batch = engine.state.batch
        images = torch.stack([items_by_index[index]["image"] for index in batch["index"].tolist()])
        weak = BatchAugment(WEAK)(images, batch["view"])
        with torch.no_grad():
            expected = engine.teacher(weak)
        assert torch.allclose(engine.state.output[DistillationKeys.TEACHER_PRED], expected, atol=1e-5)
        strong = BatchAugment(STRONG)(images, batch["view"])
        assert torch.equal(engine.state.output[CommonKeys.IMAGE], strong)
        seen.append(engine.state.stage)

    items_by_index = trainer.data_loader.dataset.data
    trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, compare)
    trainer.run()
    assert set(seen) == {2, 3}


def test_a_chain_of_augmented_batches_is_the_same_twice_and_with_workers():
    ends = set()
    for workers in (0, 0, 2):
        trainer = make_chain(num_workers=workers, prepare_batch=PrepareViews(BatchAugment(STRONG)))
        trainer.run()
        ends.add(fingerprint(trainer.network))
    assert len(ends) == 1


def test_a_batch_says_which_items_it_holds():
    trainer = make_chain(pool_ratio=1, noise=0.0)
    data = trainer.data_loader.dataset.data
    seen = []
    trainer.add_event_handler(ChainEvents.STAGE_STARTED, lambda e: seen.append(e.state.stage))

    def check(engine):
        batch = engine.state.batch
        for index, label in zip(batch["index"].tolist(), batch["label"].tolist(), strict=True):
            assert label in (-1, data[index]["label"])
            assert torch.equal(data[index]["image"], batch["image"][batch["index"] == index][0])

    trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, check)
    trainer.run()
    assert seen == [1, 2, 3]
