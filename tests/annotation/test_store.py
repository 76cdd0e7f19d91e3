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
from concurrent.futures import ThreadPoolExecutor

import pytest

from monai_weckd.annotation import LabelStore

CLASSES = ("ill", "well")


@pytest.fixture
def store(tmp_path):
    return LabelStore(tmp_path / "deep" / "labels.json", CLASSES)


def again(store):
    return LabelStore(store.path, store.classes)


def test_refuses_another_class(store):
    with pytest.raises(ValueError, match=r"label: expected one of the 2 classes, got 'wel'\. Did you mean 'well'\?"):
        store.put("a", "wel")
    assert not store.path.exists()


@pytest.mark.parametrize("label", ["Well", "well ", "we\u200bll", "\uff37ell"])
def test_a_label_has_the_spelling_of_its_class(store, label):
    store.put("a", label)
    assert store.labels == {"a": "well"}
    store.path.write_text(json.dumps({"format": 1, "labels": {"b": {"label": label, "ts": 1}}}))
    assert again(store).labels == {"b": "well"}


def test_refuses_a_file_with_another_class(store):
    store.put("a", "well")
    with pytest.raises(ValueError, match="label: expected one of the 2 classes, got 'well'"):
        LabelStore(store.path, ("ill", "healthy"))


def test_refuses_to_take_back_what_was_never_given(store):
    with pytest.raises(ValueError, match=r"id: expected an image with a label, got 'a' without\. Label it first\."):
        store.remove("a")


def test_labels_keep_their_order_and_outlive_the_process(store):
    for key, label in (("b", "well"), ("a", "ill"), ("c", "ill")):
        store.put(key, label)
    assert list(again(store).labels.items()) == [("b", "well"), ("a", "ill"), ("c", "ill")]
    assert store.put("b", "well", user="me") == "well"  # the same again
    assert store.put("a", "well") == "ill"  # another one counts as given now
    assert store.put("d", "ill") is None
    store.remove("d")
    store.remove("c")
    assert list(again(store).labels.items()) == [("b", "well"), ("a", "well")]
    assert again(store).info("b")["user"] == "me"
    assert again(store).info("c") == {}


def test_labels_that_come_at_once_are_all_kept(store):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(f"{number}", CLASSES[number % 2]), range(64)))
    assert again(store).labels == {f"{number}": CLASSES[number % 2] for number in range(64)}
    assert json.loads(store.path.read_text())["format"] == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"labels": []}',
        b'{"labels": {"a": "well"}}',
        b'{"labels": {"a": {}}}',
        b'{"labels": {"a": {"label": "well", "note": NaN}}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_named_with_its_remedy(tmp_path, content):
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"^{path}: expected the labels that `label` has stored, got [^\n]*Restore the file"
    ):
        LabelStore(path, CLASSES)
    assert path.read_bytes() == content
