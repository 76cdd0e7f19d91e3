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
import torch

from monai_weckd.fl.exact_rounds import ROUNDS
from monai_weckd.fl.messages import pack, to_arrays, to_tensors, unpack


def test_settings_are_one_word_and_name_their_site():
    settings = {"mode": "exact", "dataset_dir": 'data of "all"/{site}', "changes": {"{site}": [1, None, "ä\n"]}}
    packed = pack(settings)
    assert packed.split() == [packed]
    assert unpack(packed, "north") == {
        "mode": "exact",
        "dataset_dir": 'data of "all"/north',
        "changes": {"north": [1, None, "ä\n"]},
    }


def test_sums_arrive_as_they_were_in_the_order_of_the_rounds():
    first, second, *_ = ROUNDS
    totals = {second: {"a": torch.eye(2)}, first: {"a/b": torch.arange(3), "c": torch.tensor(0.5)}}
    arrays = to_arrays(totals)
    assert all(isinstance(value, np.ndarray) for value in arrays.values())
    found = to_tensors(arrays)
    assert list(found) == [first, second]
    for task, sums in totals.items():
        assert found[task].keys() == sums.keys()
        assert all(torch.equal(found[task][name], value) for name, value in sums.items())


def test_nothing_travels_as_an_array_that_is_none():
    assert len(to_arrays({})) == 1
    assert to_tensors(to_arrays({})) == {}
