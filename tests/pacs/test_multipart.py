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
from hypothesis import example, given
from hypothesis import strategies as st

from monai_weckd.pacs.multipart import boundary_of, single_part

BOUNDARY = b"b-1"


def message(content: bytes, *, first: bytes = b"", last: bytes = b"\r\n--b-1--\r\n") -> bytes:
    return first + b"--b-1\r\nContent-Type: application/dicom\r\nMIME-Version: 1.0\r\n\r\n" + content + last


def cut(text: bytes, sizes) -> list[bytes]:
    pieces = []
    while text:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[:size])
        text = text[size:]
    return pieces


@pytest.mark.parametrize(
    "kind", ["", "text/html", "application/dicom", "multipart/related; type=x", "multipart/mixed; boundary=b"]
)
def test_other_types_are_refused(kind):
    with pytest.raises(ValueError, match="expected multipart/related with a boundary, got another type"):
        boundary_of(kind)


@pytest.mark.parametrize("kind", ["multipart/related; boundary=b-1", 'Multipart/Related;type="a/b; c";BOUNDARY="b-1"'])
def test_the_boundary_is_found(kind):
    assert boundary_of(kind) == BOUNDARY


@given(
    content=st.lists(st.sampled_from([b"\r\n", b"--", b"b-1", b"\r\n--b-", b"x", b"\0"])).map(b"".join),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    first=st.sampled_from([b"", b"\r\n", b"preamble\r\n"]),
)
@example(content=b"x\r\n--b-1", sizes=[1], first=b"")
@example(content=b"x\r\n--b-1--x", sizes=[1], first=b"")
def test_a_part_is_what_was_sent_however_it_is_cut(content, sizes, first):
    text = message(content, first=first)
    expected, boundary, rest = content.partition(b"\r\n--b-1")
    if not boundary or rest.startswith(b"--"):  # the last boundary ends the message wherever it comes
        assert b"".join(single_part(cut(text, sizes), BOUNDARY)) == expected
    else:  # the content has the boundary itself: what follows it is no end
        with pytest.raises(ValueError, match="expected one object, got several parts"):
            b"".join(single_part(cut(text, sizes), BOUNDARY))


@given(length=st.integers(0, 96), size=st.integers(1, 40))
def test_a_message_that_breaks_off_is_never_whole(length, size):
    text = message(b"content \r\n--b- of the part")
    end = text.rindex(b"--") + 2
    pieces = single_part(cut(text[: min(length, end - 1)], [size]), BOUNDARY)
    with pytest.raises(EOFError, match="ends before its last boundary"):
        list(pieces)


def test_memory_holds_little_more_than_a_piece():
    pieces = (b"x" * 1000 for _ in range(1000))
    whole = [message(b"", last=b""), *pieces, b"\r\n--b-1--"]
    assert max(map(len, single_part(iter(whole), BOUNDARY))) <= 1100
