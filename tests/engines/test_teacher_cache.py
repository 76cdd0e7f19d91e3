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

import sys
from pathlib import Path

import pytest
import torch
from chain_runs import assert_same_weights, make_chain, make_network
from ignite.engine import Events
from monai.engines import IterationEvents

from monai_weckd.engines import DistillationKeys, DistillationTrainer, TeacherCache
from monai_weckd.losses import DistillationLoss, attention_map
from monai_weckd.networks import fingerprint
from monai_weckd.networks.freezing import page_out


class Asked(torch.nn.Sequential):
    """Count the images that a teacher is shown."""

    images = 0

    def forward(self, x):
        Asked.images += len(x)
        return super().forward(x)


@pytest.fixture(autouse=True)
def counter():
    Asked.images = 0


def make_batches(views, count=6, size=4, items=8):
    """Return batches of images that are functions of item and view."""
    batches, visits = [], [0] * items
    for number in range(count):
        indices = [(number * size + place) % items for place in range(size)]
        seeds = []
        for index in indices:
            seeds.append(visits[index] % views if views else visits[index])
            visits[index] += 1
        images = torch.stack(
            [
                torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(100 * index + view))
                for index, view in zip(indices, seeds, strict=True)
            ]
        )
        label = torch.tensor([index % 3 for index in indices])
        batches.append({"image": images, "label": label, "index": torch.tensor(indices), "view": torch.tensor(seeds)})
    return batches


def run(batches, *, cached, attention=0.0, max_epochs=2, watch=None):
    network, teacher = make_network(), Asked(*make_network(1))
    trainer = DistillationTrainer(
        "cpu",
        max_epochs,
        train_data_loader=batches,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=DistillationLoss(temperature=2.0, attention_weight=attention),
        teacher=teacher,
        student_layer="2",
        teacher_cache=cached,
        decollate=False,
    )
    losses = []
    trainer.add_event_handler(
        IterationEvents.LOSS_COMPLETED,
        lambda e: losses.append(
            [
                e.state.output[key].item()
                for key in (DistillationKeys.DISTILLATION_LOSS, DistillationKeys.ATTENTION_LOSS)
            ]
        ),
    )
    if watch is not None:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, watch)
    torch.manual_seed(0)
    trainer.run()
    return network, torch.tensor(losses)


@pytest.mark.parametrize("attention", [0.0, 10.0])
@pytest.mark.parametrize("views", [1, 2])
def test_on_or_off_gives_the_same_on_the_same_views(views, attention):
    batches = make_batches(views)
    cached, cached_losses = run(batches, cached=True, attention=attention)
    online, online_losses = run(batches, cached=False, attention=attention)
    assert (cached_losses - online_losses).abs().max() < 1e-6
    assert (online_losses[:, 1] > 0).all() == bool(attention)
    for one, other in zip(cached.state_dict().values(), online.state_dict().values(), strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("views", "images"), [(1, 8), (2, 16), (0, 24)])
def test_the_teacher_is_asked_once_for_each_view_and_never_about_a_stored_one(views, images):
    run(make_batches(views), cached=True, max_epochs=3)
    assert Asked.images == images  # the second and third epoch show the first one's batches
    Asked.images = 0
    run(make_batches(views), cached=False, max_epochs=3)
    assert Asked.images == 3 * 24


def test_an_output_is_never_used_for_another_view_or_item():
    cache = TeacherCache("teacher")

    def ask(places):
        return torch.stack([places.float(), -places.float()], dim=1), None

    first, _ = cache(torch.tensor([1, 2]), torch.tensor([0, 0]), ask)
    assert first.tolist() == [[0.0, 0.0], [1.0, -1.0]]
    mixed, _ = cache(torch.tensor([1, 2, 1]), torch.tensor([0, 1, 0]), ask)
    assert mixed.tolist() == [[0.0, 0.0], [1.0, -1.0], [0.0, 0.0]]
    assert (len(cache), cache.asked) == (3, 3)
    again, _ = cache(torch.tensor([2, 2]), torch.tensor([1, 0]), ask)
    assert cache.asked == 3
    assert again.tolist() == [[1.0, -1.0], [1.0, -1.0]]


def test_the_store_grows_without_losing_a_row():
    cache, truth = TeacherCache("teacher"), torch.randn(300, 5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        indices = torch.randint(0, 300, (16,), generator=generator)
        logits, _ = cache(indices, torch.zeros(16), lambda places, indices=indices: (truth[indices[places]], None))
        assert torch.equal(logits, truth[indices])
    assert cache.asked == len(cache) <= 300


def test_the_kept_features_have_the_attention_of_all_channels():
    features = torch.randn(4, 7, 5, 6)
    cache = TeacherCache("teacher")
    _, kept = cache(torch.arange(4), torch.zeros(4), lambda places: (torch.zeros(4, 2), features))
    assert kept.shape == (4, 1, 5, 6)
    assert torch.allclose(attention_map(kept), attention_map(features), rtol=1e-5)


def test_another_teacher_starts_another_cache():
    seen = []
    trainer = make_chain(views=1, teacher_cache=True, accept="always", max_epochs=9)
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda e: seen.append(e.distiller.cache and (e.distiller.cache.teacher, e.state.stage))
    )
    trainer.run()
    assert seen[:3] == [None] * 3
    teachers = [{teacher for teacher, stage in seen[3:] if stage == wanted} for wanted in (2, 3)]
    assert len(teachers[0]) == len(teachers[1]) == 1
    assert teachers[0] != teachers[1]


def test_a_chain_ends_the_same_with_and_without_the_cache():
    ends = []
    for cached in (True, False):
        # without a metric, by which rounding would choose another epoch
        options = {"accept": "always", "validate": False, "max_epochs": 9}
        trainer = make_chain(views=2, teacher_cache=cached, pool_ratio=1, **options)
        trainer.run()
        ends.append(trainer.network)
    assert_same_weights(*ends)


def in_a_file(tensor):
    """Return whether a tensor lies in memory that is mapped from a teacher's file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, *_, name = line.split(maxsplit=5)
        first, last = (int(end, 16) for end in place.split("-"))
        if "teacher.pt" in name and first <= tensor.data_ptr() < last:
            return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where memory is mapped from")
def test_the_teacher_leaves_the_memory_once_nothing_is_asked():
    states = []

    def watch(engine):
        states.append((engine.distiller.cache.asked, in_a_file(engine.teacher[0].weight)))

    run(make_batches(1), cached=True, max_epochs=3, watch=watch)
    assert states == [(8, False), (8, True), (8, True)]


def test_a_teacher_out_of_memory_is_what_it_was(tmp_path):
    network = make_network(3).eval().requires_grad_(False)
    before, images = fingerprint(network), torch.randn(4, 3, 8, 8)
    expected = network(images)
    page_out(network, tmp_path / "teacher.pt")
    assert fingerprint(network) == before
    assert torch.equal(network(images), expected)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_args_validation():
    with pytest.raises(ValueError, match="teacher_cache: expected False with views=0, whose views never return"):
        make_chain(teacher_cache=True)
    with pytest.raises(ValueError, match="views: expected 0 or more, got -1"):
        make_chain(views=-1)
    batches = make_batches(1)
    for batch in batches:
        del batch["view"]
    with pytest.raises(ValueError, match="teacher_cache: expected batches of images and labels alone, with the index"):
        run(batches, cached=True)


@pytest.mark.parametrize("maps", [False, True])
def test_answers_can_be_gone_on_with(maps):
    first, second = TeacherCache("teacher"), TeacherCache("teacher")
    keys = torch.tensor([0, 1, 2]), torch.tensor([7, 7, 8])

    def ask(places):
        return torch.rand(len(places), 3), torch.rand(len(places), 2, 4, 4) if maps else None

    logits, features = first(*keys, ask)
    second.load_state_dict(first.state_dict(), device=torch.device("cpu"))
    found, again = second(*keys, lambda places: pytest.fail("asked again"))
    assert torch.equal(found, logits)
    assert torch.equal(again, features) if maps else again is None
    assert (len(second), second.asked) == (3, 3)
    # and there is room for more
    assert second(torch.tensor([5]), torch.tensor([7]), ask)[0].shape == (1, 3)
    empty = TeacherCache("teacher")
    empty.load_state_dict(TeacherCache("teacher").state_dict())
    assert len(empty) == 0
