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
from pydicom import dcmread
from sr_reports import PROBABILITIES, write_image, writer

from monai_weckd.data import DicomReadError, read_classification_sr

pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")


def test_what_is_no_report_of_ours_is_refused(tmp_path):
    with pytest.raises(DicomReadError, match=r"image.dcm: expected a structured report, got another object\."):
        read_classification_sr(write_image(tmp_path))
    writer().write(tmp_path / "sr.dcm", PROBABILITIES, source=write_image(tmp_path))
    dataset = dcmread(tmp_path / "sr.dcm")
    for element in dataset.iterall():
        if element.keyword == "CodingSchemeDesignator" and element.value == "99WECKD":
            element.value = "99OTHER"
    dataset.save_as(tmp_path / "other.dcm")
    with pytest.raises(DicomReadError, match=r"other\.dcm: expected the classification of an image, got none."):
        read_classification_sr(tmp_path / "other.dcm")
