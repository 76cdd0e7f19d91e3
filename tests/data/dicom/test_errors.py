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

from monai_weckd.data.dicom.errors import DicomReadError, named_errors


@pytest.mark.parametrize("name", ["Doe^Jane", "O'Brien^Pat", 'the "Doc"'])
@pytest.mark.parametrize("quote", ["could not convert to float: {!r}", "invalid value: '{}'.", 'got "{}"'])
def test_an_error_of_the_parser_loses_its_words(name, quote):
    with pytest.raises(DicomReadError) as caught, named_errors("a.dcm"):
        raise ValueError(quote.format(name) + "\nfor this element")
    assert str(caught.value) == "a.dcm: cannot be decoded (its content is damaged). Repair the file or leave it out."
