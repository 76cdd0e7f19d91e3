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

from monai_weckd.annotation import find_items
from monai_weckd.data import load_datalist


def test_refuses_a_series_that_has_no_folder_of_its_own(tmp_path):
    write_dicom(tmp_path / "1.dcm", np.zeros((8, 8), np.uint16))
    with pytest.raises(ValueError, match=r"images: expected each DICOM series in a folder below .*, got files of"):
        find_items(tmp_path, spatial_dims=3)
    assert [item["id"] for item in find_items(tmp_path, spatial_dims=2)] == ["1.dcm"]


def test_items_have_the_groups_of_a_manifest_and_none_of_its_labels(studies):
    items = find_items(studies, spatial_dims=2)
    expected = {item["id"]: item["group"] for item in load_datalist(studies).items}
    found = {item["id"]: item["group"] for item in items}
    assert found == {**expected, "normal/broken.png": "normal/broken.png"}
    assert {key for item in items for key in item} == {"image", "id", "group"}
