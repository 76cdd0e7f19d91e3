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

from monai_weckd.annotation.label_log import LabelLog

EVENTS = [{"what": "label", "id": "a", "label": "ill"}, {"what": "skip", "id": "b"}]


def test_lines_have_their_ends(tmp_path):
    log = LabelLog(tmp_path / "new" / "labels.json")
    assert log.read() == []
    written = log.append(*EVENTS)
    content = log.path.read_bytes()
    assert [json.loads(line) for line in content.splitlines()] == [line.event for line in written] == EVENTS
    assert [content[: line.end].count(b"\n") for line in written] == [1, 2]
    assert written[-1].end == len(content)
    assert log.read() == []  # its own lines do not come again


def test_lines_of_another_process_come_before_its_own(tmp_path):
    one, other = (LabelLog(tmp_path / "labels.json") for _ in range(2))
    one.append(EVENTS[0])
    assert [line.event for line in other.append(EVENTS[1])] == EVENTS
    assert [line.event for line in one.read()] == [EVENTS[1]]


@pytest.mark.parametrize("cut", [1, 10])
def test_a_line_that_was_cut_off_is_replaced(tmp_path, cut):
    log = LabelLog(tmp_path / "labels.json")
    log.append(*EVENTS)
    log.path.write_bytes(log.path.read_bytes()[:-cut])
    log = LabelLog(tmp_path / "labels.json")
    assert [line.event for line in log.read()] == EVENTS[:1]
    log.append(EVENTS[1])
    assert [line.event for line in LabelLog(tmp_path / "labels.json").read()] == EVENTS


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"id": "a"}', '{"what": "label", "id": 1}', '{"what": "label", "label": []}']
)
def test_a_damaged_line_is_named(tmp_path, line):
    log = LabelLog(tmp_path / "labels.json")
    log.path.write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"labels\.log: expected the labels that `label` has stored, got .*Restore"):
        log.read()
