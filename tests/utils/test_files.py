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

import errno
import os
import pickle
import re
import threading
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate

import monai_weckd.utils.files
from monai_weckd.utils.files import (
    finish_writing,
    link_or_copy,
    load_tensors,
    pack_state,
    read_state,
    write_atomically,
    write_behind,
    write_state,
)


@pytest.mark.parametrize("content", ["text\r\nä\n", b"\x00\xff"])
def test_a_file_is_written_as_it_is(tmp_path, content):
    path = tmp_path / "file"
    for _ in range(2):
        write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_without_room_the_old_file_stays(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    message = r"file: expected room for 12,345 bytes, got 'No space left on device'\. Free some space"
    with pytest.raises(OSError, match=message) as error:
        write_atomically(path, b"x" * 12345)
    assert error.value.__cause__ is None
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_state_comes_back_with_its_types(tmp_path):
    state = {
        "tensor": torch.arange(6.0).reshape(2, 3).t(),
        "values": [None, True, 1, 0.1, "ä\udc80", b"\x00", (1, (2,))],
        "numpy": np.float64(0.1),
        "milestones": Counter([1, 1, 3]),
        "weights": OrderedDict(a=torch.nn.Parameter(torch.ones(1))),
    }
    write_state(tmp_path / "state.pt", pack_state(state))
    for found in (read_state(tmp_path / "state.pt"), torch.load(tmp_path / "state.pt", weights_only=True)):
        assert torch.equal(found["tensor"], state["tensor"])
        assert found["tensor"].stride() == (1, 3)
        assert found["values"] == state["values"]
        assert type(found["numpy"]) is float
        assert found["milestones"] == state["milestones"]
        assert sorted(found["milestones"].elements()) == [1, 1, 3]
        assert not found["weights"]["a"].requires_grad


def test_a_tensor_with_metadata_comes_back_as_a_tensor(tmp_path):
    # what a handler keeps of a batch of MONAI's loader, such as the running mean of the alignment
    rows = [{"image": MetaTensor([0.0, 1.0])}, {"image": MetaTensor([3.0, 5.0])}]
    batch = list_data_collate(rows)["image"]
    write_state(tmp_path / "state.pt", pack_state({"mean": batch.mean(dim=0)}))
    found = read_state(tmp_path / "state.pt")["mean"]
    assert type(found) is torch.Tensor
    assert found.tolist() == [1.5, 3.0]


@pytest.mark.parametrize("value", [object(), np.zeros(2), {1}, lambda: 0], ids=["object", "array", "set", "function"])
def test_what_could_not_be_read_again_is_refused_by_its_place(value):
    message = f"state#a#1: expected tensors and plain Python values, got {type(value).__name__}. Leave it out of"
    with pytest.raises(TypeError, match=message):
        pack_state({"a": [0, value]})


def test_a_packed_state_stays_as_it_is(tmp_path):
    weights = torch.zeros(2)
    packed = pack_state({"weights": weights})
    weights += 1
    write_state(tmp_path / "state.pt", packed)
    assert read_state(tmp_path / "state.pt")["weights"].tolist() == [0, 0]
    assert torch.serialization.get_crc32_options()


def test_written_behind_it_is_there_when_that_is_waited_for(tmp_path, monkeypatch):
    path, gate, write = tmp_path / "state.pt", threading.Event(), monai_weckd.utils.files.write_atomically
    monkeypatch.setattr(
        monai_weckd.utils.files, "write_atomically", lambda path, content: gate.wait(60) and write(path, content)
    )
    write_behind(path, pack_state({"a": 1}))
    assert not path.exists()
    gate.set()
    # in the order that they were given in
    write_behind(path, pack_state({"a": 2}))
    finish_writing(path)
    assert read_state(path) == {"a": 2}
    finish_writing(path)


def test_no_room_behind_is_told_once_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    write_state(path, pack_state({"a": 1}))

    def fill(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fill)
    write_behind(path, pack_state({"a": 2}))
    with pytest.raises(OSError, match=r"state\.pt: expected room for [\d,]+ bytes, got '"):
        write_behind(path, pack_state({"a": 3}))
    finish_writing(path)
    assert read_state(path) == {"a": 1}


def test_every_flipped_bit_and_every_cut_is_found(tmp_path):
    path = tmp_path / "state.pt"
    write_state(path, pack_state({"a": torch.zeros(3)}))
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        for data in (bytes(damaged), content[:place]):
            path.write_bytes(data)
            with pytest.raises(ValueError, match=r"state\.pt: expected the content that was written, got .* The file"):
                read_state(path)


def test_a_second_name_replaces_what_was_there(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    link_or_copy(source, target)
    assert os.path.samefile(source, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_file_system_without_links_gets_a_copy(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"new")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"new"
    assert not os.path.samefile(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps({"a": print}), None])
def test_bytes_that_are_no_tensors_are_refused_in_our_words(content, tmp_path):
    if content is None:
        torch.save({"network": torch.nn.Linear(1, 1)}, tmp_path / "model.pt")
        content = (tmp_path / "model.pt").read_bytes()
    with pytest.raises(ValueError, match=r"model\.pt: expected tensors that torch.save has written, got what") as error:
        load_tensors(content, tmp_path / "model.pt")
    assert "weights_only" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOSPC, OSError, r"expected room for 3 bytes, got .*\. Free some space and go on"),
        (errno.EDQUOT, OSError, r"expected room for 3 bytes, got .*\. Free some space and go on"),
        (errno.EACCES, PermissionError, r"expected a file that can be written, got .*\. Let this user write to its"),
        (errno.EROFS, OSError, r"expected a file that can be written, got .*\. Let this user write to its folder and"),
        (errno.ENOENT, FileNotFoundError, r"expected a file that can be written, got .*\. Put its folder back and"),
        (errno.EIO, OSError, r"expected a file that can be written, got 'Input/output error'\. Look at the disk and"),
        (errno.ENAMETOOLONG, OSError, r"expected a file that can be written, got .*\. Pass a shorter name and go on"),
    ],
)
def test_an_error_says_what_happened(tmp_path, monkeypatch, number, kind, message):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind, match=f"^{tmp_path / 'file'}: {message}[^\n]*$"):
        write_atomically(tmp_path / "file", "abc")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none/file", "got 'No such file or directory'. Put its folder back"),
        ("taken/file", "got 'Not a directory'. Move away what is in its place"),
        ("folder", "got 'Is a directory'. Move away what is in its place"),
        ("blocked", "got 'Is a directory'. Move away what is in its place"),
        ("n" * 300, "got 'File name too long'. Pass a shorter name"),
    ],
)
def test_a_place_that_is_none_is_no_lack_of_room(tmp_path, name, message):
    (tmp_path / "taken").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "blocked.part").mkdir()
    with pytest.raises(OSError, match=re.escape(message)):
        write_atomically(tmp_path / name, "abc")
