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
from dicom_files import write_dicom, write_series
from PIL import Image

from monai_weckd.annotation import find_items
from monai_weckd.data import load_datalist
from monai_weckd.data.image_files import list_images
from monai_weckd.data.keys import ImageKeys, KeyFinder

PIXELS = np.zeros((8, 8), np.uint16)


def study(root):
    """Write a study of two series and a scout in one folder, another patient's volume, and a picture."""
    (root / "a").mkdir(parents=True)
    for uid in ("1.2", "1.3"):
        write_series(root / "flat" / uid, np.zeros((4, 4, 3), np.uint16), np.eye(4), SeriesInstanceUID=uid)
        for path in sorted((root / "flat" / uid).iterdir()):
            path.rename(root / "flat" / f"{uid}_{path.name}")
        (root / "flat" / uid).rmdir()
    write_dicom(root / "flat" / "scout.dcm", PIXELS, StudyInstanceUID="1.1")
    write_dicom(root / "a" / "one.dcm", np.zeros((3, 8, 8), np.uint16), PatientID="other", StudyInstanceUID="2.1")
    Image.new("L", (8, 8)).save(root / "b.png")


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("index", ["", "series,group,x\nflat,mine,\n"])
def test_rows_have_the_names_of_label_and_of_a_manifest(tmp_path, monkeypatch, spatial_dims, index):
    study(tmp_path / "in")
    (tmp_path / "in" / "index.csv").write_text(index)
    items = {item["id"]: item["group"] for item in find_items(tmp_path / "in", spatial_dims=spatial_dims)}
    monkeypatch.chdir(tmp_path)
    for source in ((tmp_path / "in"), (tmp_path / "in").relative_to(tmp_path), tmp_path / "in" / ".." / "in"):
        finder = KeyFinder(source)
        found = [finder.find(path) for path in list_images(source, spatial_dims=spatial_dims)]
        assert {keys.file: keys.patient or keys.file for keys in found} == items
    assert {keys.file: keys[1:] for keys in found}["b.png"] == ("", "", "")
    rows = "".join(f"{name},{'ab'[place % 2]},{items[name]}\n" for place, name in enumerate(items))
    (tmp_path / "in" / "manifest.csv").write_text("file,label,group\n" + rows)
    assert {item["id"]: item["group"] for item in load_datalist(tmp_path / "in").items} == items


def test_images_of_a_series_and_study_share_their_keys(tmp_path):
    study(tmp_path)
    finder = KeyFinder(tmp_path)
    found = [finder.find(path) for path in list_images(tmp_path / "flat", spatial_dims=2)]
    assert len({keys.patient for keys in found}) == 1
    assert len(found) == 7
    assert sorted(np.unique([keys.series for keys in found], return_counts=True)[1]) == [1, 3, 3]
    other = finder.find(str(tmp_path / "a" / "one.dcm"))
    assert other.patient not in {keys.patient for keys in found}
    assert other.study.startswith("study-")


def test_one_image_is_named_as_in_its_folder(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", PIXELS, SeriesInstanceUID="1.2")
    assert KeyFinder(tmp_path / "a.dcm").find(path) == KeyFinder(tmp_path).find(path)
    assert KeyFinder(tmp_path).find(str(tmp_path)).file == ".::1.2"


def test_the_groups_of_a_manifest_are_patients(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", PIXELS)
    Image.new("L", (8, 8)).save(tmp_path / "b.png")
    (tmp_path / "manifest.csv").write_text("file,label,group\na.dcm,,mine\nb.png,,other\n")
    finder = KeyFinder(tmp_path)
    assert finder.find(path).patient == "mine"
    assert finder.find(str(tmp_path / "b.png")) == ImageKeys("b.png", "other")
    assert finder.fault == ""


def test_a_manifest_that_cannot_be_read_stops_nothing(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", PIXELS)
    without = KeyFinder(tmp_path).find(path)
    (tmp_path / "manifest.csv").write_text("name;size\na.dcm;3\n")
    finder = KeyFinder(tmp_path)
    assert finder.find(path) == without
    assert "row 1: expected a column 'file', got" in finder.fault


def test_a_text_has_paths_within_the_folder(tmp_path):
    assert KeyFinder(tmp_path).relative(f"{tmp_path / 'a' / 'b.png'}: bad, unlike {tmp_path / 'c.png'}") == (
        "a/b.png: bad, unlike c.png"
    )
    assert KeyFinder(tmp_path).relative(f"{tmp_path}::1.2: bad") == ".::1.2: bad"


def test_an_image_without_a_number_is_of_the_patient_of_its_study_as_in_a_training(tmp_path):
    for place, number in enumerate(("1", "", "2")):
        folder = tmp_path / "ab"[place % 2]
        folder.mkdir(exist_ok=True)
        study = "1.2" if place < 2 else "1.3"
        write_dicom(folder / f"{place}.dcm", PIXELS, PatientID=number, StudyInstanceUID=study)
    paths = list_images(tmp_path, spatial_dims=2)
    finder = KeyFinder(tmp_path, paths)
    found = {keys.file: keys.patient for keys in map(finder.find, paths)}
    assert found == {item["id"]: item["group"] for item in load_datalist(tmp_path).items}
    assert found["a/0.dcm"] == found["b/1.dcm"] != found["a/2.dcm"]
