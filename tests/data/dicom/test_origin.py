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

import warnings

import numpy as np
import pytest
from dicom_files import write_dicom

from monai_weckd.data.dicom.origin import Origin, age_decade, read_origin

PIXELS = np.zeros((8, 8), np.uint8)


def write(path, **elements):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return write_dicom(path, PIXELS, **elements)


def test_what_the_header_says(tmp_path):
    path = write(
        tmp_path / "a.dcm",
        Manufacturer="ACME ",
        ManufacturerModelName="Ray 7",
        InstitutionName="North",
        PatientSex="F",
        PatientAge="067Y",
    )
    assert read_origin(path) == Origin("ACME Ray 7", "North", "female", "60 to 69")


def test_a_maker_is_not_named_twice(tmp_path):
    assert read_origin(write(tmp_path / "a.dcm", Manufacturer="ACME", ManufacturerModelName="Acme Ray")).scanner == (
        "Acme Ray"
    )


@pytest.mark.parametrize("elements", [{}, {"PatientSex": "DOE", "PatientAge": "JANE"}, {"PatientAge": "19730423"}])
def test_nothing_is_known_of_other_values(tmp_path, elements):
    assert read_origin(write(tmp_path / "a.dcm", **elements)) == Origin()


def test_a_folder_is_a_series_and_other_files_tell_nothing(tmp_path):
    write(tmp_path / "a.dcm", PatientSex="M")
    (tmp_path / "b.png").write_bytes(b"no image")
    assert read_origin(tmp_path) == Origin(sex="male")
    assert read_origin(tmp_path / "b.png") == Origin()


@pytest.mark.parametrize(
    ("text", "decade"),
    [
        *(("9", "0 to 9"), ("10", "10 to 19"), ("039Y", "30 to 39"), ("40 years", "40 to 49"), ("89.9", "80 to 89")),
        *(("90", "90 or more"), ("104Y", "90 or more"), ("011M", "0 to 9"), ("130M", "10 to 19"), ("003W", "0 to 9")),
        *(("", ""), ("adult", ""), ("40-49", ""), ("-3", ""), ("1973", "")),
    ],
)
def test_ages_become_decades(text, decade):
    assert age_decade(text) == decade
