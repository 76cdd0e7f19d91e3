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

from monai_weckd.data.row_store import RowStore


def test_an_interrupted_write_is_written_over(tmp_path):
    store = RowStore(tmp_path, (2,), np.dtype("uint8"))
    keys = [f"{number:040x}" for number in range(4)]
    store.append(keys[:2], np.array([[1, 2], [3, 4]]))
    with (tmp_path / "rows.bin").open("ab") as file:
        file.write(b"\x09\x09\x09")  # rows came, their keys did not
    with (tmp_path / "keys.txt").open("ab") as file:
        file.write(keys[2][:17].encode())
    assert store.keys() == {keys[0]: 0, keys[1]: 1}
    store.append(keys[2:], np.array([[5, 6], [7, 8]]))
    assert store.map().tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert store.keys() == {key: row for row, key in enumerate(keys)}
    with pytest.raises(ValueError, match=r"cache_dir: expected arrays of .*'\|u1'.*, got .* Delete that folder"):
        RowStore(tmp_path, (3,), np.dtype("uint8"))
