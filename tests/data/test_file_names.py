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

from monai_weckd.data.file_names import PICTURE_HEADS, is_litter, is_picture, kind_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in (".hidden.png", "~$a.docx", "Thumbs.db", "@eaDir", "Icon\r", "DICOMDIR")),
        *((name, False) for name in ("a.png", "thumbs", "~a.png", "icon", "DICOMDIR.dcm")),
    ],
)
def test_what_systems_leave_behind_is_litter(name, expected):
    assert is_litter(name) is expected


@pytest.mark.parametrize(
    ("name", "kind"), [("a.TXT", ".TXT"), ("a.b.gif", ".gif"), ("1.2.840.7", "no suffix"), ("a", "no suffix")]
)
def test_the_number_at_the_end_of_a_uid_is_no_kind(name, kind):
    assert kind_of(name) == kind


@pytest.mark.parametrize("head", PICTURE_HEADS)
def test_a_picture_is_known_by_its_first_bytes(head):
    assert is_picture(head.ljust(12, b"\0"))
    assert not is_picture((b"\0" + head).ljust(12, b"\0"))


def test_two_letters_alone_make_no_bitmap():
    assert not is_picture(b"BMI of the patients")
