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
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from monai_weckd.annotation import LabelStore
from monai_weckd.annotation.store import read_labels

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


@pytest.fixture
def long_store(tmp_path):
    """Return a store whose file is not rewritten with each label."""
    store = LabelStore(tmp_path / "labels.json", CLASSES)
    for number in range(1500):
        store._kept.entries[f"{number}.png"] = {"label": CLASSES[number % 2], "ts": 1}
    store.put("last.png", "ill")
    assert store.path.stat().st_size > 2**16
    assert not store.path.with_suffix(".log").exists()
    return store


@contextmanager
def written():
    """Yield the sizes of what is written to files meanwhile."""
    sizes, fsync = [], os.fsync
    before: dict[str, int] = {}

    def note(number):
        path = os.readlink(f"/proc/self/fd/{number}")
        if os.path.isfile(path):
            size = os.fstat(number).st_size
            # of a log, what is new; another file is written as a whole
            sizes.append(size - before.get(path, 0) if path.endswith(".log") else size)
            before[path] = size
        fsync(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", note)
        yield sizes


@pytest.mark.skipif(sys.platform != "linux", reason="it looks files up in /proc")
def test_what_a_label_writes_does_not_grow_with_their_number(long_store):
    length = long_store.path.stat().st_size
    with written() as sizes:
        for number in range(300):
            long_store.put(f"new_{number:03d}.png", "well", note="sure")
            long_store.put(f"new_{number:03d}.png", "ill", note="sure")
    assert len(sizes) == 600
    assert max(sizes) < 200
    assert long_store.path.stat().st_size == length
    # until it is as long as the file: so all that is written is a few times the labels, however many there are
    with written() as sizes:
        for number in range(600):
            long_store.put(f"more_{number:03d}.png", "well", note="sure")
    assert long_store.path.stat().st_size > length
    assert sum(sizes) < 4 * long_store.path.stat().st_size
    assert list(again(long_store).labels) == list(long_store.labels)


def test_a_log_gives_the_labels_and_their_order(long_store):
    expected = dict(long_store.labels)
    for key, label in (("b", "well"), ("a", "ill"), ("b", "ill"), ("5.png", "ill"), ("6.png", "well"), ("c", "ill")):
        long_store.put(key, label, user="me")
        expected = {**{k: v for k, v in expected.items() if k != key or v == label}, key: label}
    long_store.remove("c")
    long_store.remove("7.png")
    del expected["c"], expected["7.png"]
    for store in (long_store, again(long_store)):
        assert list(store.labels.items()) == list(expected.items())
        assert store.info("b")["user"] == "me"
        assert store.info("c") == {}
    assert {key: entry["label"] for key, entry in read_labels(long_store.path).items()} == expected


@pytest.mark.parametrize("cut", [1, 5, 30, "everything"])
def test_a_line_that_was_cut_off_was_never_given(long_store, cut):
    long_store.put("a", "ill")
    log = long_store.path.with_suffix(".log")
    whole = log.read_bytes()
    long_store.put("b", "ill")
    log.write_bytes(log.read_bytes()[:-cut] if cut != "everything" else b"")
    store = again(long_store)
    assert "b" not in store.labels
    assert ("a" in store.labels) == (cut != "everything")
    store.put("c", "well")
    assert again(store).labels == store.labels
    assert log.read_bytes().startswith(whole) == (cut != "everything")


def test_a_process_that_dies_between_file_and_log_loses_no_label(long_store, monkeypatch):
    log = long_store.path.with_suffix(".log")
    for number in range(50):
        long_store.put(f"{number}.png", "well")
    monkeypatch.setattr("monai_weckd.annotation.store._SHORT", 2**30)  # write the file with all of them
    monkeypatch.setattr(type(log), "unlink", lambda *_, **__: None)
    long_store.put("7.png", "ill")  # the log has another label for it
    assert log.exists()
    expected = list(long_store.labels.items())
    monkeypatch.undo()
    assert list(again(long_store).labels.items()) == expected
    store = again(long_store)
    store.put("more", "ill")
    assert list(again(store).labels.items()) == [*expected, ("more", "ill")]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b'"ill"', b'"ill', 1),
        lambda text: text.replace(b'"entry"', b'"enter"', 1).replace(b'"label"', b'"table"'),
        lambda text: text.replace(b'"generation"', b'"degeneration"', 1),
        lambda text: text.replace(b'{"generation": 0}', b'{"generation": 7}', 1),
        lambda text: text.replace(b'{"id": "a"', b'{"id": 5', 1),
        lambda text: text.replace(b"\n", b"\n[]\n", 1),
        lambda text: b"\xff\xfe" + text,
        lambda text: text[9:],
    ],
)
def test_a_damaged_log_is_named_with_its_remedy(long_store, damage):
    long_store.put("a", "ill")
    log = long_store.path.with_suffix(".log")
    log.write_bytes(content := damage(log.read_bytes()))
    with pytest.raises(
        ValueError, match=rf"^{log}: expected the labels that `label` has stored, got [^\n]*Restore the"
    ):
        again(long_store)
    assert log.read_bytes() == content


def test_a_log_without_its_file_is_not_forgotten(long_store):
    long_store.put("a", "ill")
    long_store.path.unlink()
    with pytest.raises(ValueError, match=r"labels\.json: expected the .*, got none beside its log\. Restore"):
        again(long_store)


def test_a_log_that_cannot_be_written_keeps_no_label(long_store):
    log = long_store.path.with_suffix(".log")
    log.mkdir()
    with pytest.raises(OSError, match=r"labels\.log: expected a file that can be written"):
        long_store.put("a", "ill")
    assert "a" not in long_store.labels
    log.rmdir()
    long_store.put("a", "ill")
    assert again(long_store).labels["a"] == "ill"
