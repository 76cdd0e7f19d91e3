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
from dicom_files import write_dicom

from monai_weckd.data.dicom.sr_series import ReportRun, free_number, series_number, series_numbers


def test_the_first_number_that_is_free():
    assert free_number([]) == 9001
    assert free_number([1, 9000, 9002]) == 9001
    assert free_number({9001, 9002, 9004}) == 9003


def test_what_is_no_number():
    assert [series_number(text) for text in ("7", " 7 ", "-7", "", "7.5", "MR")] == [7, 7, -7, None, None, None]


def test_numbers_are_those_of_headers(tmp_path):
    pixels = np.zeros((4, 4), np.uint8)
    files = [
        write_dicom(tmp_path / f"{place}.dcm", pixels, StudyInstanceUID=study, **elements)
        for place, (study, elements) in enumerate(
            [("1.2", {"SeriesNumber": 3}), ("1.2", {"SeriesNumber": 9001}), ("1.3", {"SeriesNumber": 3}), ("1.4", {})]
        )
    ]
    (tmp_path / "text.txt").write_text("text")
    found = series_numbers([*files, str(tmp_path / "text.txt"), str(tmp_path / "none")])
    assert found == {"1.2": {3, 9001}, "1.3": {3}}


def test_each_study_of_a_run_has_one_series():
    run, other = ReportRun({"1.2": {9001}}), ReportRun({"1.2": {9001}})
    first = run.series("1.2", "a")
    assert run.series("1.2", "a") == first
    assert first.number == 9002
    assert run.series("1.3", "a").number == 9001
    assert len({first.uid, run.series("1.3", "a").uid, other.series("1.2", "a").uid}) == 3
    # where headers disagree about the patient, they share neither series nor number
    assert run.series("1.2", "b").number == 9003
    assert run.series("1.2", "b").uid != first.uid
