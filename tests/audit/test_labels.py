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

import numpy as np
import pytest
import torch

from monai_weckd.audit.labels import contradicted_labels, doubted, judge_labels, label_probabilities
from monai_weckd.plan.label_kind import LabelKind

CLASSES = ("cat", "dog", "owl")


def clusters(count, seed=0):
    """Return embeddings around one center for each class, and items, two of each group."""
    labels = [(i // 2) % 3 for i in range(count)]
    noise = torch.randn((count, 8), generator=torch.Generator().manual_seed(seed))
    embeddings = 8 * torch.eye(3, 8)[labels] + noise
    return embeddings, [{"id": str(i), "group": f"g{i // 2}", "label": label} for i, label in enumerate(labels)]


@pytest.mark.parametrize("seed", range(3))
def test_wrong_labels_come_first(seed):
    embeddings, items = clusters(90, seed)
    wrong = {7: 1, 31: 2, 50: 0, 71: 0}
    right = {place: CLASSES[items[place]["label"]] for place in wrong}
    for place in wrong:
        items[place]["label"] = (items[place]["label"] + 1) % 3
    found = contradicted_labels(label_probabilities(embeddings, items, num_classes=3), items, CLASSES)
    assert {finding.places[0]: finding.suggested for finding in found[:4]} == right


def test_no_image_of_a_group_speaks_for_another_one_of_it():
    embeddings, items = clusters(60)
    for place in (6, 7):  # a whole group with the wrong label, which its own images would confirm
        embeddings[place] = 10 * torch.eye(8)[0]
        items[place]["label"] = 1
    probabilities = label_probabilities(embeddings, items, num_classes=3)
    found = contradicted_labels(probabilities, items, CLASSES)
    assert {finding.places[0] for finding in found[:2]} == {6, 7}
    assert {finding.suggested for finding in found[:2]} == {"cat"}


def test_items_without_a_label_are_not_judged():
    embeddings, items = clusters(60)
    for place in (3, 8):
        items[place]["label"] = -1
    probabilities = label_probabilities(embeddings, items, num_classes=3)
    assert sorted(np.flatnonzero(np.isnan(probabilities).any(axis=1))) == [3, 8]


def test_nothing_is_said_without_labels():
    embeddings, items = clusters(6)
    items = [{**item, "label": -1} for item in items]
    assert contradicted_labels(label_probabilities(embeddings, items, num_classes=3), items, CLASSES) == []


def test_confident_learning_by_hand():
    rows = np.array([[0.9, 0.1], [0.7, 0.3], [0.35, 0.65], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [np.nan, np.nan]])
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    # thresholds: 0.65 for cat, 0.8 for dog; the third image reaches neither
    assert not doubted(rows, labels).any()
    rows[2] = [0.15, 0.85]
    assert np.flatnonzero(doubted(rows, labels)).tolist() == [2]


def test_a_finding_tells_both_labels_and_their_probabilities():
    rows = np.array([[0.15, 0.85], [0.6, 0.4], [np.nan, np.nan]])
    items = [{"id": str(i), "group": str(i), "label": 0} for i in range(3)]
    found = contradicted_labels(rows, items, CLASSES)
    assert [(finding.places, finding.suggested, finding.score) for finding in found] == [((0,), "dog", 0.15)]
    assert found[0].text == "labeled cat (probability 0.15); images of other groups suggest dog (0.85)"


def test_each_finding_is_judged_where_it_is_known():
    generator = torch.Generator().manual_seed(0)
    shown = torch.rand((120, 3), generator=generator) < 0.5
    embeddings = 6 * shown.double() @ torch.eye(3, 8).double() + torch.randn((120, 8), generator=generator)
    labels = shown.float()
    labels[:30, 1] = -1
    labels[:, 2] = 1.0  # never absent: there is nothing to tell apart
    labels[40, 0], labels[50, 1], labels[20, 1] = 1 - labels[40, 0], 1 - labels[50, 1], -1
    items = [{"id": str(i), "group": f"g{i // 2}", "label": label.numpy()} for i, label in enumerate(labels)]
    found, judged = judge_labels(embeddings, items, LabelKind(("mass", "edema", "rib"), findings=True))
    assert judged == 120 + 90
    assert {(finding.places[0], finding.suggested) for finding in found[:2]} == {
        (40, f"mass={int(shown[40, 0])}"),
        (50, f"edema={int(shown[50, 1])}"),
    }
    assert not [finding for finding in found if finding.places[0] < 30 and finding.suggested.startswith("edema")]
    assert found[0].text.startswith("labeled ")


def test_one_image_of_each_group_comes_before_further_ones():
    rows = np.tile([[0.9, 0.1], [0.1, 0.9]], (10, 1))
    items = [{"id": str(i), "group": str(i), "label": i % 2} for i in range(20)]
    for place, probability in ((0, 0.01), (2, 0.02), (4, 0.03), (6, 0.04)):
        rows[place] = [probability, 1 - probability]
    items[2]["group"] = items[4]["group"] = "0"
    found = contradicted_labels(rows, items, CLASSES[:2])
    assert [finding.places[0] for finding in found] == [0, 6, 2, 4]
