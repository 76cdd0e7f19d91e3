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

import warnings

import numpy as np
from dicom_files import write_dicom

from monai_weckd.audit.subgroups import count_rows, item_attributes, subgroups, table_columns, table_rows
from monai_weckd.plan.label_kind import LabelKind

KIND = LabelKind(("cat", "dog"))


def make_items(count):
    return [{"id": f"{i}", "image": f"{i}.png", "group": f"g{i // 2}", "label": i % 2} for i in range(count)]


def values(found, attribute):
    return {part.value: part.places for part in found if part.attribute == attribute}


def test_images_and_groups_are_counted_by_value_and_class():
    items = make_items(6)
    items[5]["label"] = -1
    found = subgroups(items, KIND, {"site": ["a", "b", "b", "b", "", "b"]})
    assert values(found, "all") == {"": (0, 1, 2, 3, 4, 5)}
    assert list(values(found, "class").items()) == [("cat", (0, 2, 4)), ("dog", (1, 3)), ("", (5,))]
    assert list(values(found, "site").items()) == [("b", (1, 2, 3, 5)), ("a", (0,)), ("", (4,))]
    row = next(row for row in count_rows(found, items, KIND) if row["value"] == "b")
    assert (row["images"], row["groups"]) == (4, 3)
    assert row["classes"] == {"cat": {"images": 1, "groups": 1}, "dog": {"images": 2, "groups": 2}}


def test_each_finding_is_counted_present_absent_and_unknown():
    kind = LabelKind(("mass", "edema"), findings=True)
    labels = [(1, 0), (1, -1), (0, np.nan), (1, 1), (-1, -1)]
    items = [
        {"id": f"{i}", "image": f"{i}.png", "group": f"g{i // 2}", "label": np.array(label, dtype=np.float32)}
        for i, label in enumerate(labels)
    ]
    found = subgroups(items, kind, item_attributes(items, {}, {"0": "test", "1": "train", "2": "train"}))
    assert [(part.attribute, part.value, part.places) for part in found] == [
        ("all", "", (0, 1, 2, 3, 4)),
        ("split", "train", (1, 2)),
        ("split", "test", (0,)),
        ("split", "", (3, 4)),
    ]
    rows = count_rows(found, items, kind)
    assert rows[0]["classes"] == {
        "mass": {
            "present": {"images": 3, "groups": 2},
            "absent": {"images": 1, "groups": 1},
            "unknown": {"images": 1, "groups": 1},
        },
        "edema": {
            "present": {"images": 1, "groups": 1},
            "absent": {"images": 1, "groups": 1},
            "unknown": {"images": 3, "groups": 3},
        },
    }
    table = list(table_rows([{**row, "result": None} for row in rows], kind))
    assert len(table) == 4 * 3
    assert table[1] == {
        **{"attribute": "all", "value": "", "finding": "mass", "images": 5, "groups": 3},
        **{"present": 3, "present_groups": 2, "absent": 1, "absent_groups": 1, "unknown": 1, "unknown_groups": 1},
    }
    assert all(set(row) <= set(table_columns(kind)) for row in table)


def test_splits_of_the_data_list_are_in_their_order():
    items = [
        {**item, "split": split} for item, split in zip(make_items(4), ("test", "val", "train", None), strict=True)
    ]
    found = subgroups(items, KIND, item_attributes(items, {}))
    assert list(values(found, "split").items()) == [("train", (2,)), ("val", (1,)), ("test", (0,)), ("", (3,))]


def test_ages_are_in_their_order_and_spellings_are_joined():
    items = make_items(5)
    columns = {
        "age": {"0": "93", "1": "7", "2": "7", "3": "unborn", "4": "045Y"},
        "scanner": {"0": "Ray", "1": "RAY", "2": "Ray ", "3": "X"},
        "sex": {"0": "f", "1": "Male", "2": "M"},
        "site": {},
    }
    found = subgroups(items, KIND, item_attributes(items, columns))
    assert list(values(found, "age")) == ["0 to 9", "40 to 49", "90 or more", "unborn"]
    assert list(values(found, "sex").items()) == [("female", (0,)), ("male", (1, 2)), ("", (3, 4))]
    assert list(values(found, "scanner")) == ["Ray", "X", ""]
    assert values(found, "site") == {}


def test_an_institution_is_a_number_and_a_column_comes_before_headers(tmp_path):
    items = make_items(4)
    for item, institution in zip(items, ("North", "South", "SOUTH", ""), strict=True):
        item["image"] = str(tmp_path / f"{item['id']}.dcm")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            pixels = np.zeros((8, 8), np.uint8)
            write_dicom(tmp_path / f"{item['id']}.dcm", pixels, InstitutionName=institution, PatientSex="F")
    assert item_attributes(items, {})["site"] == ["site 2", "site 1", "site 1", ""]
    columns = {"site": {"0": "there", "3": "here"}, "sex": {"0": ""}}
    assert item_attributes(items, columns) == {"site": ["there", "", "", "here"], "sex": ["female"] * 4}
