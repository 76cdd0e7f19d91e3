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

import zipfile

import numpy as np

SAVES = (np.savez, np.savez_compressed)


COUNTS = {"train": 12, "val": 5, "test": 4}


def arrays(shape=(28, 20), classes=3, column=True):
    rng = np.random.default_rng(0)
    found = {}
    for split, count in COUNTS.items():
        found[f"{split}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        labels = (np.arange(count) % classes).astype(np.uint8)
        found[f"{split}_labels"] = labels[:, None] if column else labels
    return found


def archive(folder, save=np.savez, name="bloodmnist.npz", **changes):
    path = folder / name
    save(path, **{**arrays(), **changes})
    return path


def damaged(path, member):
    """Change bytes in the middle of a member."""
    with zipfile.ZipFile(path) as opened:
        info = opened.getinfo(member)
    content = bytearray(path.read_bytes())
    middle = info.header_offset + info.compress_size // 2
    content[middle : middle + 64] = bytes(byte ^ 0x5A for byte in content[middle : middle + 64])
    path.write_bytes(content)
    return path
