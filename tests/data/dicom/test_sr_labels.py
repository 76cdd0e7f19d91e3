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
from sr_reports import save, write_study

from monai_weckd.data import read_classification_sr
from monai_weckd.data.dicom.sr_labels import LabelSRWriter, check_verified

pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")


def test_labels_of_a_study_are_one_report(tmp_path):
    images = write_study(tmp_path / "study")
    labels = ["ill", "well", "ill", "Größe"]
    path = save(LabelSRWriter("Ada").build(list(zip(labels, images, strict=True))), tmp_path / "sr.dcm")
    reports = read_classification_sr(path)
    assert [(report.predicted, report.person, report.verified) for report in reports] == [
        (label, "Ada", False) for label in labels
    ]
    assert [report.images for report in reports] == [(dcmread(image).SOPInstanceUID,) for image in images]


def test_a_class_that_is_no_name_is_refused(tmp_path):
    images = write_study(tmp_path / "study")
    with pytest.raises(ValueError, match="classes: expected names of 1 to 49 characters"):
        LabelSRWriter().build([("a\\b", images[0])])


@pytest.mark.parametrize(
    ("person", "organization", "message"),
    [
        ("Jane Doe", "Clinic", "verified_by: expected Family"),
        ("Doe^Jane=x", "Clinic", "verified_by: expected Family"),
        (f"Doe^{64 * 'x'}", "Clinic", "verified_by: expected Family"),
        ("Doe^Jane", 65 * "x", "organization: expected 1 to 64 characters"),
        ("Doe^Jane", "a\nb", "organization: expected 1 to 64 characters"),
    ],
)
def test_who_cannot_verify(person, organization, message):
    with pytest.raises(ValueError, match=message):
        check_verified(person, organization)
    check_verified("Doe^Jane", "Clinic")
