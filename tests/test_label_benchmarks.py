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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.label_order import hold_out
from benchmarks.label_user import UserAtTheScreen, put_images, summary
from monai_weckd.annotation import find_items


def test_the_user_never_sees_the_groups_to_test_on(copy_ears, tmp_path):
    copy_ears(tmp_path / "data", 48)
    items, test, truth = hold_out(tmp_path / "data", seed=0)
    assert len(items) + len(test) == 48
    assert items
    assert test
    assert not {item["group"] for item in items} & {item["group"] for item in test}
    assert all("label" not in item for item in (*items, *test))
    put_images(items, tmp_path / "images")
    found = find_items(tmp_path / "images", spatial_dims=2)
    assert {item["id"]: item["group"] for item in found} == {item["id"]: item["group"] for item in items}
    assert not any(truth[item["id"]] in line for item in items for line in _labels(tmp_path / "images"))


def test_settings_are_chosen_without_the_test_groups(copy_ears, tmp_path):
    copy_ears(tmp_path / "data", 48)
    items, test, _ = hold_out(tmp_path / "data", seed=0)
    less, development, _ = hold_out(tmp_path / "data", seed=0, development=True)
    assert less
    assert development
    assert sorted(item["id"] for item in (*less, *development)) == sorted(item["id"] for item in items)
    groups = [{item["group"] for item in part} for part in (less, development, test)]
    assert len(set.union(*groups)) == sum(map(len, groups))


def _labels(folder):
    return [line.split(",")[1] for line in (folder / "manifest.csv").read_text().splitlines()]


def test_balanced_accuracy_is_the_mean_over_classes(tmp_path):
    truth = {"a": "ill", "b": "ill", "c": "ill", "d": "well"}
    items = [{"id": key, "image": str(tmp_path / key)} for key in truth]
    for key in truth:
        (tmp_path / key).touch()
    user = UserAtTheScreen("", truth)
    answers = iter(["ill", "well", "well", "well"])
    user.ask = lambda *arguments, **options: {"label": next(answers)}
    assert user.test(items) == (1 / 3 + 1) / 2


def test_the_summary_of_seeds():
    assert summary([[0.5, 0.7], [0.7, 0.6]]).splitlines() == [
        "stage 1: mean 0.600 +- 0.141",
        "stage 2: mean 0.650 +- 0.071, +0.050, above the stage before in 1 of 2",
    ]
