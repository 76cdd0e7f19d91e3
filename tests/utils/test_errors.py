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

from monai_weckd.utils.errors import explaining_error, first_cause, is_refusal, raising_cause


def test_the_error_that_explains_is_the_readers_not_the_decoders():
    decoder = ZeroDivisionError("inside")
    reader = ValueError("a.png: cannot be decoded")
    reader.__cause__ = decoder
    transform = RuntimeError("applying transform")
    transform.__cause__ = reader
    assert explaining_error(transform) is reader
    assert explaining_error(reader) is reader
    reader.__cause__, transform.__cause__ = None, decoder
    assert explaining_error(transform) is decoder


def test_the_first_cause_is_at_the_end_of_the_chain():
    first, second, last = KeyError("a"), ValueError("b"), RuntimeError("c")
    last.__cause__, second.__cause__ = second, first
    assert first_cause(last) is first
    assert first_cause(first) is first


@pytest.mark.parametrize("kind", [ValueError, TypeError, FileExistsError, ImportError])
def test_an_error_that_says_what_was_expected_stands_for_its_cause(kind):
    first, last = OSError(2, "No such file"), RuntimeError()
    refusal = kind("file: expected a file, got none. Pass one.")
    last.__cause__, refusal.__cause__ = refusal, first
    assert first_cause(last) is refusal
    assert is_refusal(refusal)
    assert not is_refusal(first)
    assert not is_refusal(KeyError("file: expected a file, got none. Pass one."))


def test_a_wrapped_error_is_raised_as_what_stands_behind_it():
    with pytest.raises(ValueError, match="reason") as caught, raising_cause():
        raise RuntimeError("evaluating") from ValueError("reason")
    assert caught.value.__cause__ is None
    with pytest.raises(RuntimeError, match="alone"), raising_cause():
        raise RuntimeError("alone")
    with pytest.raises(TypeError, match="other"), raising_cause():
        raise TypeError("other") from ValueError("reason")
