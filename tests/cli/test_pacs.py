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

from monai_weckd.cli.main import main
from monai_weckd.cli.pacs import filter_of


def test_a_filter_is_a_keyword_and_its_value():
    assert filter_of("BodyPartExamined=BRAIN") == ("BodyPartExamined", "BRAIN")
    assert filter_of("PatientName=Doe=Jane") == ("PatientName", "Doe=Jane")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("BodyPartExamind=BRAIN", "got 'BodyPartExamind'. Did you mean 'BodyPartExamined'?"),
        ("Modality", "expected KEYWORD=VALUE, got 'Modality'."),
        ("Modality=", "expected KEYWORD=VALUE, got 'Modality='."),
    ],
)
def test_another_filter_is_refused(text, message):
    with pytest.raises(ValueError, match=r"^filter: ") as caught:
        filter_of(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "labels.json", "--unverified"], "error: unverified: expected --reports, got --labels"),
        (["--labels", "labels.json", "--output", "."], "error: output: expected nothing at ., got a file."),
    ],
)
def test_wrong_options_of_a_manifest_are_told_before_anything_is_read(capsys, tmp_path, options, message):
    assert main(["manifest", "--dataset_dir", str(tmp_path), *options]) == 1
    assert capsys.readouterr().err.startswith(message)
