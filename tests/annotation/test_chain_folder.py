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

import json

import pytest

from monai_weckd.annotation.chain_folder import folder_state, read_given, remove_leftovers, students_of
from monai_weckd.annotation.shards import GivenLabels
from monai_weckd.utils.files import write_atomically


def test_students_are_those_of_accepted_stages_in_the_folder_as_it_is(tmp_path):
    assert students_of(tmp_path) == {}
    stages = [{"sha256": "a", "accepted": True}, {"sha256": "b", "accepted": False}, {"sha256": "c", "accepted": True}]
    (tmp_path / "chain.json").write_text(json.dumps({"stages": stages}))
    assert students_of(tmp_path) == {"a": tmp_path / "stage_1" / "model.pt", "c": tmp_path / "stage_3" / "model.pt"}


def test_labels_that_stages_have_used_are_read_or_missed_in_one_line(tmp_path):
    path, given = tmp_path / "given.json", GivenLabels({"g": "val"}, (("a",),), frozenset("a"))
    with pytest.raises(ValueError, match=r"given\.json: expected the labels that each stage has used, got none\. Rest"):
        read_given(path)
    path.write_text(json.dumps(given.to_dict()))
    assert read_given(path) == given
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"expected the labels that each stage has used, got KeyError \('shards'\)"):
        read_given(path)


def test_the_state_differs_once_a_file_is_written(tmp_path):
    states = [folder_state(tmp_path)]
    for name in ("chain.json", "scores.npz"):
        write_atomically(tmp_path / name, "{}")
        states.append(folder_state(tmp_path))
    assert len(set(states)) == 3


def test_only_the_folder_of_the_last_stage_stays(tmp_path):
    for name in ("chain_1", "chain_2", "cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "chain").symlink_to("chain_2")
    remove_leftovers(tmp_path / "chain")
    assert {path.name for path in tmp_path.iterdir()} == {"chain", "chain_2", "cache"}
    (tmp_path / "chain").unlink()
    remove_leftovers(tmp_path / "chain")
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}
