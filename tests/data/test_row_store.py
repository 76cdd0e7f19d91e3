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

import os

import numpy as np
import pytest

from monai_weckd.data.row_store import RowStore


def test_an_interrupted_write_is_written_over(tmp_path):
    store = RowStore(tmp_path, (2,), np.dtype("uint8"))
    keys = [f"{number:040x}" for number in range(4)]
    store.append(keys[:2], np.array([[1, 2], [3, 4]]))
    with (tmp_path / "rows.bin").open("ab") as file:
        file.write(b"\x09\x09\x09")  # rows came, their keys did not
    with (tmp_path / "sums.txt").open("ab") as file:
        file.write(keys[2][:17].encode())
    assert store.find(keys) == {keys[0]: 0, keys[1]: 1}
    assert store.append(keys[2:], np.array([[5, 6], [7, 8]])) == {keys[2]: 2, keys[3]: 3}
    assert store.map().tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert store.find(keys) == {key: row for row, key in enumerate(keys)}
    with pytest.raises(ValueError, match=r"cache_dir: expected arrays of .*'\|u1'.*, got .* Delete that folder"):
        RowStore(tmp_path, (3,), np.dtype("uint8"))


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda folder: flip(folder / "rows.bin", 9), {0, 2}),  # one bit of the second array
        (lambda folder: os.truncate(folder / "rows.bin", 20), {0, 1}),  # the third one is cut short
        (lambda folder: os.truncate(folder / "rows.bin", 0), set()),
        (lambda folder: flip(folder / "sums.txt", 45), {1, 2}),  # the checksum of the first one
        (lambda folder: (folder / "sums.txt").write_bytes(b"\xff" * 150), set()),
        (lambda folder: (folder / "sums.txt").unlink(), set()),
    ],
)
def test_a_damaged_array_counts_as_missing_until_it_is_made_anew(tmp_path, damage, left):
    store, keys = RowStore(tmp_path, (2,), np.dtype("float32")), [f"{number:040x}" for number in range(3)]
    arrays = np.arange(6, dtype=np.float32).reshape(3, 2)
    store.append(keys, arrays)
    damage(tmp_path)
    found = store.find(keys)
    assert found.keys() == {keys[place] for place in left}
    again = [place for place in range(3) if place not in left]
    found |= store.append([keys[place] for place in again], arrays[again])
    assert found == store.find(keys)
    assert store.map()[[found[key] for key in keys]].tolist() == arrays.tolist()
