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
from dataset_folders import manifest, rows

from monai_weckd.data.datalist import load_datalist

BAD_SPLIT_FILES = {
    "absent": (None, r"split_file: expected a readable file, got .*splits\.json' \(No such file .*Correct the path"),
    "no_json": ("{", r"split_file: expected JSON, got .*Write the file again"),
    "no_object": ('["a.png"]', r"split_file: expected an object of split by item id, got list. Write the file again"),
    "unknown_id": (
        '{"a.png": "train", "b.png": "val", "d.png": "test"}',
        r"split_file: expected ids of the 2 items, got 'd.png'. An id is the path of the image, relative",
    ),
    "unknown_split": (
        '{"a.png": "train", "b.png": "vall"}',
        r"split_file: expected one of .* for 'b.png', got 'vall'. Did you mean 'val'\?",
    ),
    "no_split": ('{"a.png": "train", "b.png": null}', r"split_file: expected one of .* for 'b.png', got None. Valid"),
    "item_left_out": (
        '{"a.png": "train"}',
        r"split_file: expected a split for each of 2 items, got none for 1, first 'b.png'. Add it",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD_SPLIT_FILES.values(), ids=BAD_SPLIT_FILES)
def test_bad_split_file(tmp_path, text, message):
    root = manifest(tmp_path / "set", rows("a.png,x,,", "b.png,y,,"))
    if text is not None:
        (tmp_path / "splits.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_datalist(root, split_file=tmp_path / "splits.json")
    assert "\n" not in str(error.value)


def test_split_file_overrides_the_split_column(tmp_path):
    root = manifest(tmp_path / "set", rows("a.png,x,,train", "b.png,y,,train", "c.png,,,val"))
    splits = {"c.png": "train", "b.png": "test", "a.png": "val"}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    found = load_datalist(root, split_file=tmp_path / "splits.json")
    assert {item["id"]: item["split"] for item in found.items} == splits
    assert [item["id"] for item in found.items] == ["a.png", "b.png", "c.png"]
    plain = load_datalist(root)
    assert [{**item, "split": "-"} for item in found.items] == [{**item, "split": "-"} for item in plain.items]


def test_spellings_of_splits_and_names_in_a_split_file(tmp_path):
    root = manifest(tmp_path / "set", rows("\u00e9.png,x,,", "b.png,y,,", "c.png,x,,"), files="\u00e9.png b.png c.png")
    splits = {"e\u0301.png": "Training", "b.png": "VALID", "c.png": "testing"}
    (tmp_path / "splits.json").write_text(json.dumps(splits), encoding="utf-8-sig")
    found = load_datalist(root, split_file=tmp_path / "splits.json")
    assert [item["split"] for item in found.items] == ["train", "val", "test"]
    (tmp_path / "splits.json").write_text(json.dumps({**splits, "\u00e9.png": "test"}))
    with pytest.raises(ValueError, match=r"expected one split for '\\xe9.png', got 'train' and 'test'. Remove one"):
        load_datalist(root, split_file=tmp_path / "splits.json")
