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
from monai_weckd.annotation.label_files import note_export, read_labels, rebuild_labels

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
    log = store.path.with_suffix(".log")
    log.write_text(log.read_text().replace('"well"', json.dumps(label)))
    assert again(store).labels == {"a": "well"}
    assert again(store).put("a", "well") == again(store).info("a")["label"] == "well"


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
    assert store.put("b", "well", info={"user": "me"}) == "well"  # the same again
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
    assert json.loads(store.path.read_text())["format"] == 2


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
    path = tmp_path / "labels.json"
    entries = {f"{number}.png": {"label": CLASSES[number % 2], "ts": 1} for number in range(1500)}
    path.write_text(json.dumps({"format": 1, "labels": entries}))
    store = LabelStore(path, CLASSES)
    assert store.path.stat().st_size > 2**16
    return store


def log_of(store):
    return store.path.with_suffix(".log")


def events(store):
    return [json.loads(line) for line in log_of(store).read_text().splitlines()]


@contextmanager
def written():
    """Yield how many bytes are written to files meanwhile, each time."""
    sizes, fsync = [], os.fsync
    before: dict[str, int] = {}

    def note(number):
        path = os.readlink(f"/proc/self/fd/{number}")
        if os.path.isfile(path):
            size = os.fstat(number).st_size
            # of a log, what is new; another file is written as a whole
            sizes.append(size - before.get(path, os.path.getsize(path)) if path.endswith(".log") else size)
            before[path] = size
        fsync(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", note)
        yield sizes


@pytest.mark.skipif(sys.platform != "linux", reason="it looks files up in /proc")
def test_what_a_label_writes_does_not_grow_with_their_number(long_store):
    length = long_store.path.stat().st_size
    with written() as sizes:
        for number in range(150):
            long_store.put(f"new_{number:03d}.png", "well", info={"note": "sure"})
            long_store.put(f"new_{number:03d}.png", "ill", info={"note": "sure"})
    assert len(sizes) == 300
    assert max(sizes) < 200
    assert long_store.path.stat().st_size == length
    # until the log has grown by as much: so all that is written is a few times the labels, however many there are
    with written() as sizes:
        for number in range(1000):
            long_store.put(f"more_{number:04d}.png", "well", info={"note": "sure"})
    assert long_store.path.stat().st_size > length
    assert sum(sizes) < 4 * long_store.path.stat().st_size
    assert list(again(long_store).labels) == list(long_store.labels)


def test_a_log_gives_the_labels_and_their_order(long_store):
    expected = dict(long_store.labels)
    for key, label in (("b", "well"), ("a", "ill"), ("b", "ill"), ("5.png", "ill"), ("6.png", "well"), ("c", "ill")):
        long_store.put(key, label, who="Ada", info={"user": "me"})
        expected = {**{k: v for k, v in expected.items() if k != key or v == label}, key: label}
    long_store.remove("c")
    long_store.remove("7.png")
    del expected["c"], expected["7.png"]
    for store in (long_store, again(long_store)):
        assert list(store.labels.items()) == list(expected.items())
        assert (store.info("b")["user"], store.info("b")["who"]) == ("me", "Ada")
        assert store.info("c") == {}
    assert {key: entry["label"] for key, entry in read_labels(long_store.path).items()} == expected


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_that_was_cut_off_was_never_given(long_store, cut):
    long_store.put("a", "ill")
    whole = log_of(long_store).read_bytes()
    long_store.put("b", "ill")
    log_of(long_store).write_bytes(log_of(long_store).read_bytes()[:-cut])
    store = again(long_store)
    assert "a" in store.labels
    assert "b" not in store.labels
    store.put("c", "well")
    assert again(store).labels == store.labels
    assert log_of(store).read_bytes().startswith(whole)


def test_a_process_that_dies_between_log_and_file_loses_no_label(store, monkeypatch):
    store.put("a", "ill")
    with monkeypatch.context() as patch:
        patch.setattr(LabelStore, "_write_file", lambda self: None)
        store.put("b", "ill")
    assert '"b"' not in store.path.read_text()
    assert again(store).labels == {"a": "ill", "b": "ill"}
    assert '"b"' in store.path.read_text()  # which is written as soon as the labels are read


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b'"ill"', b'"ill', 1),
        lambda text: text.replace(b'"what"', b'"that"', 1),
        lambda text: text.replace(b'"label": "ill"', b'"label": 7', 1),
        lambda text: text.replace(b'"id": "a"', b'"id": 5', 1),
        lambda text: text.replace(b"\n", b"\n[]\n", 1),
        lambda text: b"\xff\xfe" + text,
        lambda text: text[9:],
    ],
)
def test_a_damaged_log_is_named_with_its_remedy(long_store, damage):
    long_store.put("a", "ill")
    log = log_of(long_store)
    log.write_bytes(content := damage(log.read_bytes()))
    with pytest.raises(
        ValueError, match=rf"^{log}: expected the labels that `label` has stored, got [^\n]*Restore the"
    ):
        again(long_store)
    assert log.read_bytes() == content


def test_a_log_that_cannot_be_written_keeps_no_label(tmp_path):
    store = LabelStore(tmp_path / "labels.json", CLASSES)
    log_of(store).mkdir()
    with pytest.raises(OSError, match=r"labels\.log: expected a file that can be written"):
        store.put("a", "ill")
    assert "a" not in store.labels
    log_of(store).rmdir()
    store.put("a", "ill")
    assert again(store).labels["a"] == "ill"


def test_a_line_that_could_not_be_written_whole_leaves_nothing(store, monkeypatch):
    store.put("a", "ill")
    before = log_of(store).read_bytes()

    def fail(number):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=r"labels\.log: expected room for \d+ bytes"):
            store.put("b", "ill")
    assert log_of(store).read_bytes() == before
    store.put("c", "well")
    assert again(store).labels == {"a": "ill", "c": "well"}


def test_a_file_that_cannot_be_written_costs_no_label(store, caplog):
    store.put("a", "ill")
    blocked = store.path.with_name("labels.json.part")
    blocked.mkdir()
    store.put("b", "ill")
    assert "Its log has all labels." in caplog.text
    blocked.rmdir()
    assert again(store).labels == {"a": "ill", "b": "ill"}


def test_the_log_says_who_did_what_and_adds_up_to_the_file(store):
    store.put("a", "ill", who="Ada")
    store.put("a", "well", who="Béla")
    store.put("a", "ill", who="Ada", undo=True)
    store.note("skip", who="Ada", id="b")
    store.put("b", "ill", who="Béla", info={"note": "sure"})
    store.remove("b", who="Béla")
    store.note("training", stage=1)
    assert [(event["who"], event["what"], event.get("id"), event.get("label")) for event in events(store)] == [
        ("Ada", "label", "a", "ill"),
        ("Béla", "correction", "a", "well"),
        ("Ada", "undo", "a", "ill"),
        ("Ada", "skip", "b", None),
        ("Béla", "label", "b", "ill"),
        ("Béla", "undo", "b", None),
        (None, "training", None, None),
    ]
    assert all(type(event["ts"]) is int for event in events(store))
    content = store.path.read_bytes()
    assert json.loads(content)["labels"]["a"] == {"label": "ill", "who": "Ada", "ts": events(store)[0]["ts"]}
    store.path.unlink()
    assert not rebuild_labels(store.path)  # there was none
    assert store.path.read_bytes() == content
    assert rebuild_labels(store.path)
    assert again(store).path.read_bytes() == content


def test_a_correction_that_is_taken_back_gives_the_label_to_whom_it_was(store):
    for who, label in (("Ada", "ill"), ("Béla", "well"), ("Cy", "ill")):
        store.put("a", label, who=who, info={"note": who})
    for who, label in (("Béla", "well"), ("Ada", "ill")):
        store.put("a", label, who="Cy", undo=True)
        for one in (store, again(store)):
            assert (one.info("a")["who"], one.info("a")["note"], one.labels) == (who, who, {"a": label})
    store.put("a", "well", who="Cy", undo=True)  # which nobody has given
    assert store.info("a")["who"] == "Cy"


def test_a_file_that_says_something_else_is_told(long_store):
    long_store.put("a", "ill")  # the file is older than the log
    assert b'"a"' not in long_store.path.read_bytes()
    assert rebuild_labels(long_store.path)
    assert b'"a"' in long_store.path.read_bytes()
    content = long_store.path.read_bytes()
    for other in (content.replace(b'"ill"', b'"well"', 1), content[:-9], b"{}", b"[" * 100_000):
        long_store.path.write_bytes(other)
        assert not rebuild_labels(long_store.path)
        assert long_store.path.read_bytes() == content
    with pytest.raises(ValueError, match=r"labels: expected labels\.log beside .*none\.json, got none\. Restore it"):
        rebuild_labels(long_store.path.with_name("none.json"))


def test_an_export_is_logged_beside_a_running_server(store):
    store.put("a", "ill")
    note_export(store.path, to="manifest.csv")
    store.put("b", "ill")
    assert [event["what"] for event in events(store)] == ["label", "export", "label"]
    assert again(store).labels == {"a": "ill", "b": "ill"}
    assert rebuild_labels(store.path)
    note_export(store.path.with_name("elsewhere.json"), to="manifest.csv")  # a copy without a log
    assert not store.path.with_name("elsewhere.log").exists()
