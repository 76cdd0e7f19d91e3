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

import json

import numpy as np
import pytest
from dicom_files import write_dicom
from PIL import Image

from monai_weckd.annotation import LabelStore
from monai_weckd.annotation.reports import label_reports, person_of
from monai_weckd.data import read_classification_sr


def test_a_label_has_a_person_or_none():
    assert [person_of(entry) for entry in ({"label": "a"}, {"who": None}, {"who": "Ada"})] == ["", "", "Ada"]


def test_each_label_is_counted(tmp_path):
    pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")
    images = tmp_path / "images"
    images.mkdir()
    for name in ("0.dcm", "1.dcm"):
        write_dicom(images / name, np.zeros((4, 4), np.uint8), StudyInstanceUID="1.2.3")
    write_dicom(images / "broken.dcm", np.zeros((4, 4), np.uint8), StudyInstanceUID="")
    Image.new("L", (4, 4)).save(images / "picture.png")
    names = ("0.dcm", "broken.dcm", "picture.png", "gone.dcm")
    labels = tmp_path / "labels.json"
    given = {name: {"label": "ill", "ts": 1} for name in names}
    given["1.dcm"] = {"label": "cannot tell", "answer": True, "ts": 1}
    labels.write_text(json.dumps({"format": 1, "labels": given}))
    counts, faults = label_reports(images, labels, tmp_path / "reports")
    assert counts == {
        "reported": 1,
        "of images that are gone": 1,
        "of images other than DICOM": 1,
        "without a class": 1,
    }
    (fault,) = faults
    assert "broken.dcm: expected a valid StudyInstanceUID" in fault
    assert len(list((tmp_path / "reports").iterdir())) == 1


def test_each_known_finding_is_in_the_report_of_its_image(tmp_path):
    pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")
    images = tmp_path / "images"
    images.mkdir()
    write_dicom(images / "0.dcm", np.zeros((4, 4), np.uint8), StudyInstanceUID="1.2.3")
    store = LabelStore(tmp_path / "labels.json", ("effusion", "nodule", "mass"), findings=True)
    store.put("0.dcm", {"effusion": 1, "mass": 0}, who="Ada")
    counts, faults = label_reports(images, store.path, tmp_path / "reports")
    assert (counts["reported"], faults) == (1, [])
    (path,) = (tmp_path / "reports").iterdir()
    (found,) = read_classification_sr(path)
    assert (found.predicted, found.present, found.person) == ("", {"effusion": True, "mass": False}, "Ada")
