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
from dicom_files import write_dicom
from prediction_models import CLASSES, OTOSCOPY, untrained_model

from monai_weckd.data import read_classification_sr
from monai_weckd.predict.images import Prediction
from monai_weckd.predict.model import PredictionBundle
from monai_weckd.predict.reports import ReportFolder

pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")


@pytest.fixture
def bundle(tmp_path):
    return PredictionBundle(OTOSCOPY, untrained_model(tmp_path / "model"))


def test_a_folder_with_files_is_refused(bundle, tmp_path):
    with pytest.raises(
        FileExistsError, match=r"write_sr: expected an empty folder, got .* with files\. Pass another one"
    ):
        ReportFolder(tmp_path, bundle)


def test_only_dicom_images_with_probabilities_get_a_report(bundle, tmp_path):
    source = write_dicom(tmp_path / "a.dcm", np.zeros((8, 8), np.uint16), StudyInstanceUID="1.2.3")
    probabilities = np.array([0.5, 0.25, 0.125, 0.125])
    reports = ReportFolder(tmp_path / "reports", bundle)
    assert reports.write(Prediction(source, None, "broken"), 1) == ""
    assert reports.write(Prediction(str(tmp_path / "b.png"), probabilities), 2) == ""
    assert reports.write(Prediction(source, probabilities), 3) == ""
    assert reports.count == 1
    assert [path.name for path in reports.folder.iterdir()] == ["000003.dcm"]
    found = read_classification_sr(reports.folder / "000003.dcm")
    assert list(found.probabilities) == CLASSES
    assert list(found.probabilities.values()) == list(probabilities)
