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
import logging
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pydicom
import pytest
from dicom_files import write_series
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset, FileMetaDataset

from monai_weckd.data import image_reader
from monai_weckd.data.datalist import Datalist, load_datalist
from monai_weckd.data.verify import read_datalist, verify_images

RNG = np.random.default_rng(0)


def picture(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    PIL.Image.fromarray(RNG.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
    return path


def volume(path: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(RNG.normal(size=(16, 16, 16)).astype(np.float32), np.eye(4)), path)
    return path


def dicom(path: Path, *, pixels: bytes | None = bytes(8 * 8 * 2)) -> Path:
    path.parent.mkdir(exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = pydicom.uid.CTImageStorage, "1.2.3", "CT"
    data.Rows = data.Columns = 8
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit = 1, 16, 16, 15
    data.PixelRepresentation, data.PhotometricInterpretation = 0, "MONOCHROME2"
    if pixels is not None:
        data.PixelData = pixels
        data["PixelData"].VR = "OW"
    data.save_as(path, enforce_file_format=True)
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def as_list(*paths: Path) -> Datalist:
    return Datalist(
        [{"image": str(path), "id": path.name, "label": 0, "group": path.name} for path in paths], ("x", "y")
    )


def test_argument_validation():
    with pytest.raises(ValueError, match=r"on_bad_item: expected one of .*, got 'skipp'. Did you mean 'skip'\?"):
        verify_images(as_list(), on_bad_item="skipp")


def test_good_items_come_back_as_they_were(tmp_path):
    suffixes = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
    paths = [picture(tmp_path / f"a{suffix}") for suffix in suffixes]
    paths += [
        volume(tmp_path / "b.nii"),
        volume(tmp_path / "c.nii.gz"),
        dicom(tmp_path / "d.dcm"),
        dicom(tmp_path / "e"),
    ]
    write_series(tmp_path / "series", RNG.integers(0, 99, (5, 6, 3), dtype=np.uint16), np.eye(4))
    (tmp_path / "series" / "notes.txt").write_text("not an image")
    datalist = as_list(*paths, tmp_path / "series")
    assert verify_images(datalist) == datalist


def test_folders_and_objects_without_images(tmp_path):
    (tmp_path / "none").mkdir()
    files = write_series(tmp_path / "series", RNG.integers(0, 99, (5, 6, 3), dtype=np.uint16), np.eye(4))
    Path(files[1]).write_bytes(Path(files[1]).read_bytes()[:-30])
    for path, reason in (
        (tmp_path / "none", "expected DICOM images, got none"),
        (tmp_path / "series", r"series.\d+\.dcm: cannot be decoded"),
        (dicom(tmp_path / "plan.dcm", pixels=None), "expected an image, got a DICOM object without pixels"),
        (dicom(tmp_path / "few.dcm", pixels=bytes(100)), "cannot be decoded"),
    ):
        with pytest.raises(ValueError, match=rf"^image: .* got 1 .* first '{path.name}': .*{reason}"):
            verify_images(as_list(path))
        assert verify_images(as_list(path), on_bad_item="skip").skipped == (path.name,)


def test_the_log_tells_what_was_not_used(tmp_path, caplog):
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png")
    (tmp_path / "manifest.csv").write_text("file,label,age\na.png,x,5\nb.png,y,6\n")
    with caplog.at_level(logging.INFO, logger="monai_weckd"):
        read_datalist(tmp_path)
    assert "columns not used: age" in [record.getMessage() for record in caplog.records]


def test_skip_warns_once_with_all_names(tmp_path, caplog):
    bad = [cut(picture(tmp_path / f"bad{i}.png")) for i in range(3)]
    datalist = as_list(*bad, picture(tmp_path / "good.png"))._replace(skipped=("earlier",))
    with caplog.at_level(logging.WARNING, logger="monai_weckd"):
        kept = verify_images(datalist, on_bad_item="skip")
    assert kept.skipped == ("earlier", "bad0.png", "bad1.png", "bad2.png")
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("monai_weckd")]
    assert message.startswith("left out 3 unreadable items, first 'bad0.png': cannot be decoded (")
    assert message.endswith(" Repair the file or leave it out. All: bad0.png, bad1.png, bad2.png")


def test_compressed_dicom_is_not_measured_by_its_length(tmp_path):
    path = Path(get_testdata_file("MR_small_RLE.dcm"))
    assert verify_images(as_list(path)).skipped == ()


def test_real_set(shared_data):
    folder = shared_data("hippocampus_mri_3d") / "images"
    datalist = as_list(*sorted(folder.glob("*.nii.gz"))[:20])
    assert verify_images(datalist) == datalist


def test_real_dicom_variety(shared_data):
    datalist = as_list(*sorted((shared_data("dicom_variety") / "files").iterdir()))
    kept = verify_images(datalist, on_bad_item="skip")
    assert {"rtplan.dcm"} <= set(kept.skipped)
    assert "CT_small.dcm" in {item["id"] for item in kept.items}
    assert len(kept.items) + len(kept.skipped) == 56


def test_what_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    paths = [picture(tmp_path / f"{n}.png") for n in range(3)]
    datalist = Datalist([{"image": str(path), "id": path.name, "label": 0} for path in paths], ("a", "b"))
    opened = []
    genuine = image_reader.CountedFile
    monkeypatch.setattr(image_reader, "CountedFile", lambda path: opened.append(Path(path).name) or genuine(path))
    assert verify_images(datalist) == datalist
    assert sorted(opened) == ["0.png", "1.png", "2.png"]
    opened.clear()
    assert verify_images(datalist) == datalist
    assert opened == []
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    with pytest.raises(ValueError, match=r"image: expected readable files, got 1 that are not, first '1.png'"):
        verify_images(datalist)
    assert opened == ["1.png"]
    paths[2].unlink()
    with pytest.raises(ValueError, match=r"image: expected readable files, got 2 that are not"):
        verify_images(datalist)


def test_a_data_set_is_listed_and_verified_in_one_call(tmp_path):
    for name in ("ill/a.png", "well/b.png", "well/c.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(tmp_path / "images" / name)
    splits = {"ill/a.png": "train", "well/b.png": "val", "well/c.png": "test"}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    options = {"split_file": tmp_path / "splits.json"}
    assert read_datalist(tmp_path / "images") == load_datalist(tmp_path / "images")
    assert {item["id"]: item["split"] for item in read_datalist(tmp_path / "images", **options).items} == splits
    cut(tmp_path / "images" / "well" / "b.png")
    with pytest.raises(ValueError, match=r"got 1 that are not, first 'well/b\.png'"):
        read_datalist(tmp_path / "images", **options)
    left = read_datalist(tmp_path / "images", **options, on_bad_item="skip")
    assert [item["id"] for item in left.items] == ["ill/a.png", "well/c.png"]
    assert left.skipped == ("well/b.png",)


def test_a_data_set_may_lack_classes_that_are_named(tmp_path):
    for name in ("ill", "well"):
        picture(tmp_path / name / "a.png")
    found = read_datalist(tmp_path, classes=["odd", "well", "ill"])
    assert found.classes == ("odd", "well", "ill")
    assert sorted(item["label"] for item in found.items) == [1, 2]
    with pytest.raises(ValueError, match="expected one of the 2 classes, got 'ill'"):
        read_datalist(tmp_path, classes=["odd", "well"])
