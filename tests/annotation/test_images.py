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
from annotation_runs import OTOSCOPY
from dicom_files import write_dicom
from PIL import Image

from monai_weckd.annotation import AnnotatedBundle, find_items
from monai_weckd.data import load_datalist
from monai_weckd.data.image_reader import read_image
from monai_weckd.data.passed_over import PassedOver


def write_slices(folder, *names, uid):
    """Write the slices of a series."""
    plane = {"PixelSpacing": [1, 1], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "SeriesInstanceUID": uid}
    for place, name in enumerate(names):
        write_dicom(folder / name, np.zeros((8, 8), np.uint16), **plane, ImagePositionPatient=[0, 0, place])


def test_a_series_in_the_folder_itself_is_named_by_its_uid(tmp_path):
    write_slices(tmp_path, "1.dcm", "2.dcm", uid="1.2")
    assert [item["id"] for item in find_items(tmp_path, spatial_dims=3)] == [".::1.2"]
    assert [item["id"] for item in find_items(tmp_path, spatial_dims=2)] == ["1.dcm", "2.dcm"]
    write_slices(tmp_path, "3.dcm", "4.dcm", uid="1.3")
    items = find_items(tmp_path, spatial_dims=3)
    assert [item["id"] for item in items] == [".::1.2", ".::1.3"]
    rows = "".join(f"{item['id']},{label},\n" for item, label in zip(items, "ab", strict=True))
    (tmp_path / "manifest.csv").write_text("file,label,group\n" + rows)
    listed = load_datalist(tmp_path).items
    assert [(item["id"], item["group"]) for item in listed] == [(item["id"], item["group"]) for item in items]
    assert [read_image(item["image"])[0].shape for item in listed] == [(1, 8, 8, 2)] * 2


def test_refuses_a_series_without_a_uid_that_has_no_folder_of_its_own(tmp_path):
    write_dicom(tmp_path / "1.dcm", np.zeros((8, 8), np.uint16), SeriesInstanceUID="")
    with pytest.raises(ValueError, match=r"images: expected each DICOM series without a UID in a folder below .*, got"):
        find_items(tmp_path, spatial_dims=3)


def test_an_index_of_another_program_gives_no_groups(tmp_path):
    write_dicom(tmp_path / "1.dcm", np.zeros((8, 8), np.uint16), PatientID="")
    for text in ("", "name;size\n1;2;3", "\ufeffseries,group,x\n1.dcm,mine,y\n"):
        (tmp_path / "index.csv").write_text(text, encoding="utf-8")
        (item,) = find_items(tmp_path, spatial_dims=2)
        assert item["group"] == "mine" or "mine" not in text
    assert item["group"] == "mine"


def test_items_have_the_groups_of_a_manifest_and_none_of_its_labels(studies):
    items = find_items(studies, spatial_dims=2)
    expected = {item["id"]: item["group"] for item in load_datalist(studies).items}
    found = {item["id"]: item["group"] for item in items}
    assert found == {**expected, "normal/broken.png": "normal/broken.png"}
    assert {key for item in items for key in item} == {"image", "id", "group"}


@pytest.mark.parametrize(
    ("header", "group"),
    [("file,patient", "p"), ("file,modality,bytes", "a.png"), ("file,label,group", "p"), ("file", "a.png")],
)
def test_a_manifest_needs_no_labels_where_images_are_labeled(tmp_path, header, group):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    columns = header.split(",")
    row = {"file": "a.png", "patient": "p", "group": "p", "modality": "CT", "bytes": "7", "label": ""}
    (tmp_path / "manifest.csv").write_text(f"{header}\n{','.join(row[name] for name in columns)}\n")
    passed_over = PassedOver()
    assert [item["group"] for item in find_items(tmp_path, spatial_dims=2, passed_over=passed_over)] == [group]
    assert passed_over.columns == [name for name in columns if name in ("modality", "bytes")]


@pytest.mark.parametrize(("kind", "readable"), [("brain_mri", 38), ("brain_mri_3d", 9)])
def test_each_file_of_many_kinds_is_shown_or_listed_with_a_reason(kind, readable, shared_data, tmp_path):
    folder = shared_data("dicom_variety")
    items = find_items(folder, spatial_dims=3 if kind.endswith("3d") else 2)
    bundle = AnnotatedBundle(OTOSCOPY.parent / f"{kind}_chain_classification", folder, cache_dir=tmp_path)
    faults = bundle.find_faults(items)
    assert len(items) - len(faults) == readable
    assert all(reason.endswith(".") and "Error: DicomReadError" not in reason for reason in faults.values()), faults
