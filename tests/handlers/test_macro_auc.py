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
from ignite.engine import Engine
from monai.handlers import ROCAUC
from sklearn.metrics import roc_auc_score

from monai_weckd.handlers import MacroAUC


def make_outputs(classes, labels, seed=0):
    """Return probabilities, (N, C), with ties among them, and labels, (N,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(labels)
    logits = torch.randn(len(labels), classes, generator=generator)
    logits += torch.nn.functional.one_hot(labels, classes)
    return torch.softmax((4 * logits).round() / 4, dim=1), labels


def area(metric, probabilities, labels, batch_size=7):
    metric.reset()
    for batch in zip(probabilities.split(batch_size), labels.split(batch_size), strict=True):
        metric.update(batch)
    return metric.compute()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 3, 8])
def test_with_every_class_it_is_monai_s_to_the_bit(classes, seed):
    probabilities, labels = make_outputs(classes, [n % classes for n in range(41)], seed)
    expected = area(ROCAUC(), probabilities, torch.nn.functional.one_hot(labels, classes))
    assert area(MacroAUC(), probabilities, labels) == expected
    assert 0 < expected < 1


@pytest.mark.parametrize("present", [(0, 1, 2), (0, 3), (1, 2)])
def test_classes_without_items_are_left_out_of_the_mean(present):
    probabilities, labels = make_outputs(4, [present[n % len(present)] for n in range(30)])
    expected = [roc_auc_score(labels == label, probabilities[:, label]) for label in present]
    assert area(MacroAUC(), probabilities, labels) == pytest.approx(sum(expected) / len(present), abs=1e-12)


def test_items_may_come_one_by_one():
    probabilities, labels = make_outputs(3, [n % 3 for n in range(20)])
    metric = MacroAUC()
    metric.update((list(probabilities), list(labels)))
    assert metric.compute() == area(MacroAUC(), probabilities, labels)


def test_it_is_the_metric_of_an_engine():
    probabilities, labels = make_outputs(3, [n % 3 for n in range(20)])
    metric = MacroAUC(lambda output: (output["pred"], output["label"]))
    engine = Engine(lambda engine, batch: batch)
    metric.attach(engine, "auc")
    engine.run([{"pred": probabilities[:10], "label": labels[:10]}, {"pred": probabilities[10:], "label": labels[10:]}])
    assert engine.state.metrics["auc"] == area(MacroAUC(), probabilities, labels)
