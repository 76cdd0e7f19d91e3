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

import hashlib
import json
import re

import pytest

from monai_weckd.utils.records import (
    check_plain,
    model_chain,
    parse_json,
    probability_classes,
    probability_columns,
    read_probabilities,
    sealed_json,
)


def write(folder, **changes):
    """Write a model, a student and a chain.json beside the model; returns the model."""
    (folder / "model.pt").write_bytes(b"model")
    (folder / "student.pt").write_bytes(b"student")
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("model", "student")}
    chain = {
        "classes": ["a", "b"],
        "settings": {},
        "preprocessing": None,
        "stages": [{"stage": 1, "sha256": digests["student"]}, {"stage": 2, "sha256": digests["model"]}],
        "final": {"stage": 2, "sha256": digests["model"]},
    }
    (folder / "chain.json").write_text(sealed_json({**chain, **changes}, indent=1))
    return folder / "model.pt"


def test_probabilities_are_read_by_class_in_any_order():
    columns = probability_columns(["b", "probability_a"])
    assert columns == ["probability_b", "probability_probability_a"]
    row = {"id": "1.png", **dict(zip(columns, ("0.25", "0.75"), strict=True)), "confidence": "0.75"}
    assert probability_classes(row) == ["b", "probability_a"]
    assert read_probabilities(row, ["probability_a", "b"]) == [0.75, 0.25]


def test_every_student_of_a_chain_is_known(tmp_path):
    model = write(tmp_path)
    assert model_chain(model)["classes"] == ["a", "b"]
    assert model_chain(model.with_name("student.pt"))["classes"] == ["a", "b"]


def test_without_a_chain_nothing_is_known(tmp_path):
    write(tmp_path)
    (tmp_path / "chain.json").unlink()
    assert model_chain(tmp_path / "model.pt") is None


def test_another_model_is_refused(tmp_path):
    model = write(tmp_path)
    model.write_bytes(b"models")
    with pytest.raises(ValueError, match=r"model\.pt: expected a model of the chain\.json beside it, got another one"):
        model_chain(model)


def test_a_changed_order_of_the_classes_is_refused(tmp_path):
    model = write(tmp_path)
    path = tmp_path / "chain.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "classes": ["b", "a"]}))
    with pytest.raises(ValueError, match=r"chain\.json: expected the content of its digest, got a changed one"):
        model_chain(model)


@pytest.mark.parametrize(("changes", "message"), [({"final": []}, "final"), ({"stages": [1]}, "stages")])
def test_what_is_no_chain_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"chain.json: {message}: expected an object, got (list|int). Write"):
        model_chain(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"note": NaN}', "expected finite numbers, got nan"),
        ('{"note": [1, {"deep": -Infinity}]}', "expected finite numbers, got -inf"),
        ('{"note": 1e999}', "expected finite numbers, got inf"),
        ('{"note": "\\ud800"}', "expected text in Unicode, got half of a surrogate pair"),
        ('{"\\udc00": 1}', "expected text in Unicode, got half of a surrogate pair"),
        ("[" * 18 + "]" * 18, "expected JSON of at most 16 levels, got more"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "expected JSON, got something else"),
        ("9" * 5000, "expected JSON, got something else"),
        ("{'a': 1}", "expected JSON, got something else"),
        (b"\xff\xfe", "expected JSON, got something else"),
        ("", "expected JSON, got something else"),
    ],
)
def test_json_that_others_cannot_hold_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=f"^params: {re.escape(message)}[^\n]*$"):
        parse_json(text, where="params")


@pytest.mark.parametrize("value", [object(), b"1", {1, 2}, (1, 2), [{"a": {1.5: None}, "b": 1j}]])
def test_a_value_that_is_no_json_is_refused(value):
    with pytest.raises(ValueError, match="params: expected a value of JSON, got "):
        check_plain(value, where="params")


def test_plain_json_is_read():
    assert parse_json('{"a": [1, 2.5, null, true, "ä"]}', where="params") == {"a": [1, 2.5, None, True, "ä"]}
