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
from sklearn.linear_model import Ridge

from monai_weckd.fl import ExactSite, add_sums, solve_exact
from monai_weckd.fl.exact import PENALTIES, TEMPERATURES, label_counts
from monai_weckd.networks import StandardizedLinear


def draw(items=90, features=12, classes=4, *, seed=0, patients=30):
    """Return features of unequal scale, labels of unequal classes with some unknown, and groups."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, items, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    points = rng.standard_normal((classes, features))[labels] + 1.5 * rng.standard_normal((items, features))
    groups = np.array([f"patient {number}" for number in rng.integers(0, patients, items)])
    labels[rng.random(items) < 0.2] = -1
    return torch.from_numpy(points * rng.uniform(0.1, 5, features) + 7), torch.from_numpy(labels), groups


def divide(data, sites, *, seed=1):
    """Return the parts of unequal sites, none of which shares a group with another."""
    names, group = np.unique(data[2], return_inverse=True)
    shares = np.arange(1, sites + 1) ** 2
    place = np.random.default_rng(seed).choice(sites, len(names), p=shares / shares.sum())[group]
    return {f"site {number}": tuple(part[place == number] for part in data) for number in range(sites)}


def rounds(parts, classes=4, **options):
    """Return the sums of all rounds over all sites."""
    sites = {name: ExactSite(*data[:2], list(data[2]), num_classes=classes, **options) for name, data in parts.items()}
    moments = add_sums({name: site.moments() for name, site in sites.items()})
    products = add_sums({name: site.products(moments) for name, site in sites.items()})
    return moments, products, add_sums({name: site.held_out(moments, products) for name, site in sites.items()})


def pooled(data, classes=4, **options):
    return solve_exact(*rounds({"all": data}, classes, **options))


class Oracle:
    """Ridge regressions of scikit-learn on all images at once, written without the code under test."""

    def __init__(self, features, labels, groups, bounded=True):
        x = features.numpy()
        z = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), np.inf)
        if bounded:
            z = np.tanh(z)
            z *= math.sqrt(z.shape[1]) / np.linalg.norm(z, axis=1, keepdims=True)
        known = labels.numpy() >= 0
        self.z, self.all, self.labels, self.groups = z[known], z, labels.numpy()[known], groups[known]
        of_class = dict(zip(*np.unique(self.labels, return_counts=True), strict=True))
        self.weight = np.array([len(self.labels) / (len(of_class) * of_class[label]) for label in self.labels])
        self.target = np.eye(int(self.labels.max()) + 1)[self.labels]

    def fit(self, penalty, rows):
        ridge = Ridge(alpha=penalty * self.z.shape[1], solver="cholesky")
        return ridge.fit(self.z[rows], self.target[rows], sample_weight=self.weight[rows])

    def held_out(self, penalty):
        """Return the scores of each label by a regression without its group."""
        found = np.zeros_like(self.target)
        for group in np.unique(self.groups):
            found[self.groups == group] = self.fit(penalty, self.groups != group).predict(self.z[self.groups == group])
        return found


@pytest.mark.parametrize("features", [12, 120])  # fewer and more than labels
def test_it_is_the_ridge_regression_of_scikit_learn(features):
    data = draw(features=features)
    head, oracle = pooled(data), Oracle(*data)
    expected = oracle.fit(head.penalty, np.ones(len(oracle.labels), dtype=bool))
    np.testing.assert_allclose(head.weight * head.temperature, expected.coef_, atol=1e-9)
    np.testing.assert_allclose(head.bias * head.temperature, expected.intercept_, atol=1e-9)


def test_penalty_and_temperature_are_those_of_heads_without_a_group():
    data = draw()
    head, oracle = pooled(data), Oracle(*data)
    places = np.arange(len(oracle.labels)), oracle.labels
    scores = [oracle.held_out(penalty) for penalty in PENALTIES]
    squares = [float((oracle.weight[:, None] * (oracle.target - found) ** 2).sum()) for found in scores]
    _, _, held_out = rounds({"all": data})
    np.testing.assert_allclose(held_out["errors"], squares, rtol=1e-9)
    chosen = int(np.argmin(squares))
    assert head.penalty == PENALTIES[chosen]
    surprise = []
    for temperature in TEMPERATURES:
        exponents = np.exp(scores[chosen] / temperature)
        surprise.append(float(-np.log((exponents / exponents.sum(1, keepdims=True))[places]).sum()))
    np.testing.assert_allclose(held_out["surprise"][chosen], surprise, rtol=1e-9)
    assert head.temperature == TEMPERATURES[int(np.argmin(surprise))]
    right = scores[chosen].argmax(1) == oracle.labels
    assert head.balanced_accuracy == pytest.approx(np.mean([right[oracle.labels == k].mean() for k in range(4)]))
    assert head.labels == head.held_out == len(oracle.labels)


@pytest.mark.parametrize("sites", [2, 3, 10])
@pytest.mark.parametrize("features", [12, 120])
def test_sites_give_the_head_of_pooled_images(sites, features):
    data = draw(features=features)
    parts = divide(data, sites)
    sizes = [len(part[0]) for part in parts.values()]
    assert max(sizes) >= 1.5 * min(sizes)
    if sites == 10:
        assert any(len(set(part[1].tolist()) - {-1}) < 4 for part in parts.values())  # classes are missing there
    assert_same(solve_exact(*rounds(parts)), pooled(data))


def assert_same(head, expected):
    for name in ("mean", "deviation", "weight", "bias"):
        np.testing.assert_allclose(getattr(head, name), getattr(expected, name), rtol=1e-6, atol=1e-9)
    for name in ("penalty", "temperature", "labels", "held_out", "balanced_accuracy"):
        assert getattr(head, name) == pytest.approx(getattr(expected, name))


def test_sites_of_one_class_each_give_the_head_of_pooled_images():
    features, labels, _ = draw()
    groups = np.array([f"patient {place}" for place in range(len(labels))])
    kinds = {f"site {kind}": labels == kind for kind in range(-1, 4)}  # one of them has no label
    parts = {name: (features[rows], labels[rows], groups[rows.numpy()]) for name, rows in kinds.items()}
    assert_same(solve_exact(*rounds(parts)), pooled((features, labels, groups)))


def test_images_without_a_label_count_in_the_standardization():
    features, labels, groups = draw()
    known = labels >= 0
    other = pooled((features[known], labels[known], groups[known.numpy()]))
    head = pooled((features, labels, groups))
    np.testing.assert_allclose(head.mean, features.mean(0))
    np.testing.assert_allclose(head.deviation, features.std(0, correction=0))
    assert not torch.allclose(head.mean, other.mean)


def test_a_constant_feature_carries_no_information():
    features, labels, groups = draw()
    features[:, 3] = 0.1 + 0.2  # its sums are rounded
    head = pooled((features, labels, groups))
    assert head.deviation[3] == 0
    assert (head.weight[:, 3] == 0).all()


def test_a_class_without_a_label_is_never_predicted():
    data = draw(classes=3)
    head = pooled(data, classes=5)
    layer = StandardizedLinear(12, 5)
    head.write(layer)
    with torch.no_grad():
        assert torch.softmax(layer(data[0].float()), dim=1)[:, 3:].max() < 1e-6


def test_a_class_that_one_group_has_is_left_out_of_the_figures():
    features, labels, groups = draw()
    groups[labels.numpy() == 0] = "one patient"
    head = pooled((features, labels, groups))
    assert head.held_out == head.labels - int((labels == 0).sum())


def test_one_patient_for_each_class_is_enough():
    features, labels, _ = draw()
    rows = [int((labels == kind).nonzero()[0]) for kind in range(4)]
    head = pooled((features[rows], labels[rows], np.array(list("abcd"))))
    assert head.held_out == 0
    assert head.balanced_accuracy is None
    layer = StandardizedLinear(12, 4)
    head.write(layer)
    assert layer(features[rows].float()).argmax(1).tolist() == [0, 1, 2, 3]


def test_all_labels_in_one_patient_are_enough():
    features, labels, _ = draw()
    assert pooled((features, labels, np.array(["a"] * len(labels)))).held_out == 0


@pytest.mark.parametrize("kind", [StandardizedLinear, torch.nn.Linear])
def test_a_layer_gives_the_probabilities_of_the_head(kind):
    bounded = kind is StandardizedLinear
    data = draw()
    data[0][:, 3] = 5.0  # a constant feature
    head, oracle = solve_exact(*rounds(divide(data, 3), bounded=bounded)), Oracle(*data, bounded=bounded)
    layer = kind(12, 4)
    head.write(layer)
    scores = oracle.fit(head.penalty, np.ones(len(oracle.labels), dtype=bool)).predict(oracle.all)
    expected = torch.softmax(torch.from_numpy(scores / head.temperature), dim=1)
    with torch.no_grad():
        np.testing.assert_allclose(torch.softmax(layer(data[0].float()), dim=1), expected, atol=1e-5)


def test_another_layer_is_refused():
    head = pooled(draw())
    with pytest.raises(ValueError, match=r"layer: expected a StandardizedLinear with weights \(4, 12\), got Linear"):
        head.write(torch.nn.Linear(12, 4))
    with pytest.raises(ValueError, match=r"got StandardizedLinear with \(3, 12\)\. Pass the head of the network"):
        head.write(StandardizedLinear(12, 3))
    with pytest.raises(ValueError, match=r"expected a Linear with weights \(4, 12\), got StandardizedLinear"):
        pooled(draw(), bounded=False).write(StandardizedLinear(12, 4))


def test_sums_of_another_network_or_class_list_name_their_site():
    north, south = (ExactSite(*draw(features=count)[:2], ["a"] * 90, num_classes=4).moments() for count in (12, 13))
    with pytest.raises(ValueError, match=r"sums: expected those of south to have the shapes of north, .*Use the same"):
        add_sums({"north": north, "south": south})


def test_sums_that_are_not_finite_name_their_site():
    moments = ExactSite(*draw()[:2], ["a"] * 90, num_classes=4).moments()
    broken = {**moments, "sum": moments["sum"] * math.nan}
    with pytest.raises(ValueError, match=r"sums: expected finite numbers from south, got others in sum\. Look at its"):
        add_sums({"north": moments, "south": broken})
    with pytest.raises(ValueError, match=r"sums: expected those of a site or more, got none\. Wait for a site\."):
        add_sums({})


def test_labels_of_one_class_are_refused():
    features, labels, groups = draw()
    site = ExactSite(features, labels.clamp(max=0), list(groups), num_classes=4)
    with pytest.raises(ValueError, match=r"labels: expected labels of two classes or more over all sites, got \["):
        site.products(site.moments())


@pytest.mark.parametrize("change", [lambda sums: sums.clamp(max=0.01), lambda sums: sums + 0.3, lambda sums: -sums])
def test_sums_that_a_filter_has_changed_are_refused(change):
    moments, *_ = rounds({"all": draw()})
    with pytest.raises(
        ValueError, match=r"labels: expected whole numbers of labels, got [\d.e, -]+ for each class\. Leave"
    ):
        label_counts({**moments, "labels": change(moments["labels"])})
