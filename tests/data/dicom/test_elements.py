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

import numpy as np
import pytest
from dicom_files import PATIENT, write_dicom

from monai_weckd.data.dicom.elements import read_header
from monai_weckd.data.dicom.errors import DicomReadError


def test_the_asked_elements_come_as_text_in_their_order(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((8, 8), np.uint16), InstanceNumber=7)
    found = read_header(path, "Modality", "BodyPartExamined", "InstanceNumber", "PatientID")
    assert found == ("OT", "", "7", PATIENT["PatientID"])


def test_what_is_no_dicom_file_is_refused_by_the_given_name(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"no image")
    with pytest.raises(DicomReadError, match=r"^an instance: expected a DICOM file"):
        read_header(tmp_path / "a.dcm", "Modality", name="an instance")
