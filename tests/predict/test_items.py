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
from PIL import Image

from monai_weckd.data.keys import ImageKeys, KeyFinder
from monai_weckd.predict.items import ItemFinder


def finder(folder, level, text="file,label,group,study\n0.png,,p,s\n1.png,,q,t\n2.png,,p,s\n3.png,,p,\n"):
    for number in range(4):
        Image.new("L", (8, 8)).save(folder / f"{number}.png")
    (folder / "manifest.csv").write_text(text)
    return ItemFinder(KeyFinder(folder), [str(folder / f"{number}.png") for number in range(4)], level)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("patient", {"p": ("p", "", ""), "q": ("q", "", "")}),
        ("study", {"p/s": ("p", "s", ""), "q/t": ("q", "t", ""), "3.png": ("p", "", "")}),
    ],
)
def test_an_item_has_all_its_images_and_their_keys(tmp_path, level, expected):
    found = finder(tmp_path, level)
    assert {name: found.find(name) for name in found.paths} == {
        name: ImageKeys(name, *keys) for name, keys in expected.items()
    }
    first = next(iter(found.paths))
    kept = [0, 2, 3] if level == "patient" else [0, 2]
    assert found.paths[first] == [str(tmp_path / f"{number}.png") for number in kept]
    assert found.relative(f"{tmp_path}/0.png: bad") == "0.png: bad"


def test_two_studies_of_one_name_are_refused(tmp_path):
    text = "file,label,group,study\n0.png,,p/s,t\n1.png,,p,s/t\n2.png,,q,1\n3.png,,q,2\n"
    with pytest.raises(ValueError, match="input: expected studies with names of their own, got 'p/s/t' for several"):
        finder(tmp_path, "study", text)


def test_images_without_names_are_refused(tmp_path):
    message = "input: expected images with a known series, as the model is of series, got none of 4.* a column series b"
    with pytest.raises(ValueError, match=message):
        finder(tmp_path, "series")
