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

import io

import numpy as np
import pytest
from dicom_files import write_dicom
from pydicom import dcmread
from pydicom.uid import generate_uid

pytest.importorskip("dicomweb_client", reason="DICOMweb wants the extra 'pacs'")
pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")

from monai_weckd.cli.main import main
from monai_weckd.data import ClassificationSRWriter
from monai_weckd.data.dicom.sr_folder import DocumentFolder
from monai_weckd.pacs import renumber


@pytest.fixture
def study(fake):
    """A study on the server, one series of which has the first number that is free elsewhere."""
    study = fake.fill(series=2, instances=1, SeriesNumber=9001)
    fake.fill(series=1, instances=1, study=study)  # of no number
    return study


def write_reports(folder, study, count=3):
    """Write reports of images of a study; returns their files."""
    folder.mkdir()
    writer, documents = (
        ClassificationSRWriter(["ill"], model="m", version="1", bundle="b"),
        DocumentFolder(folder / "r"),
    )
    for number in range(count):
        source = write_dicom(folder / f"{number}.dcm", np.zeros((4, 4), np.uint8), StudyInstanceUID=study)
        assert documents.add(writer, [1.0], source=source, number=number + 1) == ""
    return sorted(documents.folder.glob("*.dcm"))


def numbers(files):
    return [int(dcmread(file).SeriesNumber) for file in files]


def send(fake, files):
    return main(["send", "--url", fake.url, "--input", str(files[0].parent)])


def sent(fake):
    """Return number and content of the reports on the server, by series."""
    datasets = [dcmread(io.BytesIO(content)) for content in fake.objects.values()]
    return {(str(one.SeriesInstanceUID), int(one.SeriesNumber)) for one in datasets if one.Modality == "SR"}


def test_a_number_that_is_taken_there_is_changed(capsys, fake, study, tmp_path, waits):
    files = write_reports(tmp_path / "a", study)
    before = [dcmread(file) for file in files]
    assert send(fake, files) == 0
    assert "numbers 1 series got another, since theirs is taken there\n" in capsys.readouterr().out
    assert sent(fake) == {(str(before[0].SeriesInstanceUID), 9002)}
    for file, old in zip(files, before, strict=True):
        new = dcmread(file)
        assert [element.keyword for element in new if element != old.get(element.tag)] == ["SeriesNumber"]
        key = (study, str(new.SeriesInstanceUID), str(new.SOPInstanceUID))
        assert fake.objects[key] == file.read_bytes()
    # sent again, it keeps its number, and a second run gets the next one
    assert send(fake, files) == 0
    other = write_reports(tmp_path / "b", study)
    assert send(fake, other) == 0
    assert (numbers(files), numbers(other)) == ([9002] * 3, [9003] * 3)
    assert len(sent(fake)) == 2


def test_a_number_that_is_free_there_stays(capsys, fake, tmp_path, waits):
    files = write_reports(tmp_path / "a", fake.fill(SeriesNumber=1))
    contents = [file.read_bytes() for file in files]
    assert send(fake, files) == 0
    assert "numbers" not in capsys.readouterr().out
    assert [file.read_bytes() for file in files] == contents


@pytest.mark.parametrize("begun", [True, False])
def test_two_runs_in_one_folder(begun, fake, study, tmp_path, waits):
    files = [*write_reports(tmp_path / "a", study), *write_reports(tmp_path / "b", study)]
    if begun:  # the server has one report of the first run
        assert main(["send", "--url", fake.url, "--input", str(files[0])]) == 0
    folder = tmp_path / "both"
    folder.mkdir()
    for number, file in enumerate(files):
        file.rename(folder / f"{number}.dcm")
    assert send(fake, sorted(folder.iterdir())) == 0
    assert sorted(number for _, number in sent(fake)) == [9002, 9003]


def test_a_run_that_dies_while_numbers_change(fake, monkeypatch, study, tmp_path, waits):
    files = write_reports(tmp_path / "a", study)
    write, count = renumber.write_atomically, []

    def written(path, content):
        if count:
            raise OSError("the disk is full")
        count.append(write(path, content))

    with monkeypatch.context() as patched:
        patched.setattr(renumber, "write_atomically", written)
        assert send(fake, files) == 1
    assert sorted(numbers(files)) == [9001, 9001, 9002]
    assert sent(fake) == set()
    assert send(fake, files) == 0
    assert numbers(files) == [9002] * 3


def test_reports_of_others_are_left_alone(fake, study, tmp_path, waits):
    files = write_reports(tmp_path / "a", study)
    for file in files:
        dataset = dcmread(file)
        dataset.Manufacturer = "other"
        dataset.save_as(file)
    contents = [file.read_bytes() for file in files]
    assert send(fake, files) == 0
    assert [file.read_bytes() for file in files] == contents


def test_a_study_that_the_server_does_not_have(fake, tmp_path, waits):
    files = write_reports(tmp_path / "a", str(generate_uid()))
    assert send(fake, files) == 0
    assert numbers(files) == [9001] * 3
