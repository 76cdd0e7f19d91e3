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
from monai.bundle import ConfigParser

from monai_weckd.utils.literals import literal

TEXTS = (
    *(
        "$__import__('os').getcwd()",
        "@seed",
        "%seed",
        "$@seed",
        "$'a'",
        "$'\"\\",
        "a@#b",
        "a@##b",
        "%::b",
        "a#b",
        "$a@seed",
    ),
    *("plain/path", "me@host", "50%", "a#b", "", "$", "$\n", "ä", "$ä@#", "$\udcff", "\\@seed", "$\\@seed"),
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_stays_as_it_is_in_a_configuration(text):
    parser = ConfigParser({"seed": 1, "inner": {"key": literal(text)}, "reference": "@inner#key"})
    assert parser.get_parsed_content("inner#key") == text
    assert parser.get_parsed_content("reference") == text


@pytest.mark.parametrize("text", ["images", "/data/images", "me@host", "100 %", "a$b"])
def test_a_text_that_is_no_expression_is_written_as_it_is(text):
    assert literal(text) == text
