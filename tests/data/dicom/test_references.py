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

from monai_weckd.data.dicom.references import folder_of, parse_series, series_reference


def test_a_reference_tells_its_folder_and_series(tmp_path):
    folder = tmp_path / "a::b"
    folder.mkdir()
    reference = series_reference(str(folder), "1.2.3")
    assert parse_series(reference) == (str(folder), "1.2.3")
    assert folder_of(reference) == str(folder)


def test_any_other_path_is_itself(tmp_path):
    (tmp_path / "x::y").touch()  # a file of this name, beside a folder of the first part
    (tmp_path / "x").mkdir()
    for path in (tmp_path, tmp_path / "a.dcm", tmp_path / "x::y", f"{tmp_path / 'absent'}::1.2"):
        assert parse_series(path) is None
        assert folder_of(path) == str(path)
