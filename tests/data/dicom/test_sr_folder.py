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

from pathlib import Path

import numpy as np
import pytest
from dicom_files import errors_of_dciodvfy, write_dicom
from pydicom import dcmread

from monai_weckd.data import ClassificationSRWriter, read_classification_sr
from monai_weckd.data.dicom.sr_folder import DocumentFolder
from monai_weckd.data.dicom.sr_series import series_numbers

highdicom = pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")

STUDIES = ("1.2.1", "1.2.2", "1.2.1", "1.2.2", "1.2.1")


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    pixels = np.zeros((4, 4), np.uint8)
    return [
        write_dicom(tmp_path / "images" / f"{number}.dcm", pixels, StudyInstanceUID=study, SeriesNumber=9001)
        for number, study in enumerate(STUDIES)
    ]


@pytest.fixture
def writer():
    return ClassificationSRWriter(["ill", "well"], model="m", version="1", bundle="b")


def chances(number):
    return [number / 10, 1 - number / 10]


def fill(folder, writer, images, numbers=range(5)):
    for number in numbers:
        assert folder.add(writer, chances(number), source=images[number], number=number + 1) == ""


def datasets(folder):
    return {path.stem: dcmread(path) for path in sorted(folder.folder.glob("*.dcm"))}


def test_another_word_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"sr_per: expected one of \('image', 'study'\), got 'studies'. Did you mean"):
        DocumentFolder(tmp_path / "reports", per="studies")


def test_a_report_of_each_image_in_one_series_of_each_study(images, tmp_path, writer):
    folder = DocumentFolder(tmp_path / "reports", taken={"1.2.1": {9001}})
    fill(folder, writer, images)
    assert folder.finish() == []
    found = datasets(folder)
    assert list(found) == ["000001", "000002", "000003", "000004", "000005"]
    assert [dataset.InstanceNumber for dataset in found.values()] == [1, 2, 3, 4, 5]
    assert [dataset.StudyInstanceUID for dataset in found.values()] == list(STUDIES)
    series = [(dataset.StudyInstanceUID, dataset.SeriesInstanceUID) for dataset in found.values()]
    assert len(set(series)) == len({uid for _, uid in series}) == 2
    assert [dataset.SeriesNumber for dataset in found.values()] == [9002, 9001, 9002, 9001, 9002]
    assert len({dataset.SOPInstanceUID for dataset in found.values()}) == 5


def test_one_report_of_each_study(images, tmp_path, writer):
    folder = DocumentFolder(tmp_path / "reports", per="study")
    fill(folder, writer, images)
    assert folder.count == 0
    assert folder.finish() == folder.finish() == []
    assert list(datasets(folder)) == ["000001", "000002"]
    for name, numbers in (("000001", (0, 2, 4)), ("000002", (1, 3))):
        reports = read_classification_sr(folder.folder / f"{name}.dcm")
        assert [list(report.probabilities.values()) for report in reports] == [chances(number) for number in numbers]
        assert [report.images for report in reports] == [(dcmread(images[n]).SOPInstanceUID,) for n in numbers]


@pytest.mark.parametrize("per", ["image", "study"])
def test_an_image_that_cannot_be_referred_to_stops_no_other(images, per, tmp_path, writer):
    broken = write_dicom(tmp_path / "broken.dcm", np.zeros((4, 4), np.uint8), StudyInstanceUID="")
    folder = DocumentFolder(tmp_path / "reports", per=per)
    told = folder.add(writer, chances(0), source=broken, number=1)
    assert told.startswith("no report: ")
    assert "broken.dcm: expected a valid StudyInstanceUID" in told
    fill(folder, writer, images)
    assert folder.finish() == []
    assert folder.count == (5 if per == "image" else 2)


def test_one_image_twice_is_told(images, tmp_path, writer):
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(Path(images[0]).read_bytes())
    folder = DocumentFolder(tmp_path / "reports", per="study")
    fill(folder, writer, images)
    told = folder.add(writer, chances(7), source=str(copy), number=6)
    assert "copy.dcm: expected an image with a SOPInstanceUID of its own, got that of another image of the s" in told
    assert folder.finish() == []
    assert len(read_classification_sr(folder.folder / "000001.dcm")) == 3


def test_an_image_that_is_gone_at_the_end_is_told(images, tmp_path, writer):
    folder = DocumentFolder(tmp_path / "reports", per="study")
    fill(folder, writer, images)
    (tmp_path / "images" / "3.dcm").unlink()
    (told,) = folder.finish()
    assert "3.dcm: cannot be read" in told
    assert folder.count == 1


def test_a_run_that_goes_on_keeps_its_series(images, tmp_path, writer):
    first = DocumentFolder(tmp_path / "reports")
    fill(first, writer, images, range(3))
    before = datasets(first)
    second = DocumentFolder(tmp_path / "reports", resume=True)
    fill(second, writer, images, range(2, 5))
    after = datasets(second)
    assert len(after) == 5
    assert {dataset.SeriesInstanceUID for dataset in after.values()} == {
        dataset.SeriesInstanceUID for dataset in before.values()
    }
    assert {dataset.SeriesNumber for dataset in after.values()} == {9001}


@pytest.mark.shared
def test_studies_of_real_images(shared_data, tmp_path, writer):
    files = sorted(map(str, (shared_data("dicom_variety") / "files").glob("*.dcm")))
    taken = series_numbers(files)
    folder = DocumentFolder(tmp_path / "reports", per="study", taken=taken)
    told = [folder.add(writer, [0.25, 0.75], source=file, number=number + 1) for number, file in enumerate(files)]
    refused = [text for text in told if text]
    assert sum("SOPInstanceUID of its own" in text for text in refused) == len(refused) - 5 > 0
    assert folder.finish() == []
    found = datasets(folder)
    said = {name: read_classification_sr(folder.folder / f"{name}.dcm") for name in found}
    assert sum(map(len, said.values())) == len(files) - len(refused)
    assert max(map(len, said.values())) > 1
    for name, dataset in found.items():
        assert errors_of_dciodvfy(folder.folder / f"{name}.dcm") == []
        assert int(dataset.SeriesNumber) not in taken.get(dataset.StudyInstanceUID, set())
        assert len(highdicom.sr.srread(folder.folder / f"{name}.dcm").content.get_image_measurement_groups()) == len(
            said[name]
        )
