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

import execnet
import pytest
from report_texts import sendable

REPORT = {"outcome": "failed", "duration": 0.5, "sections": [("stdout", "a\udcff.png", None)], "a\udcff.png": []}


def test_a_report_with_any_file_name_can_be_sent():
    with pytest.raises(execnet.DumpError, match="strings must be utf-8 encodable"):
        execnet.dumps(REPORT)
    found = execnet.loads(execnet.dumps(sendable(REPORT)))
    sections = [("stdout", "a\\udcff.png", None)]
    assert found == {"outcome": "failed", "duration": 0.5, "sections": sections, "a\\udcff.png": []}


def test_of_all_others_nothing_changes():
    text = "\N{LATIN SMALL LETTER U WITH DIAERESIS}\N{OTTER}\\udcff"
    assert sendable([text, (1, None), {"a": True}]) == [text, (1, None), {"a": True}]
