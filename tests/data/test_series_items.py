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
from dicom_files import dicom_dataset, write_dicom, write_series
from PIL import Image
from pydicom.uid import BasicTextSRStorage

from monai_weckd.data.image_files import list_images
from monai_weckd.data.image_reader import read_image
from monai_weckd.data.passed_over import PassedOver
from monai_weckd.data.series_items import volumes

PIXELS = np.zeros((8, 8), np.uint16)


def volume_of_frames(folder, name, **elements):
    return write_dicom(folder / name, np.zeros((2, 8, 8), np.uint16), **elements)


def series(folder, uid, *, prefix=""):
    """Write three slices of a series, which lie with others in one folder."""
    for path in map(Path, write_series(folder / uid, np.zeros((4, 4, 3), np.uint16), np.eye(4), SeriesInstanceUID=uid)):
        path.rename(folder / f"{prefix}{path.name}")
    (folder / uid).rmdir()


# what lies in one folder, and the images that it makes
TOGETHER = {
    "volumes": (lambda at: [volume_of_frames(at, f"{name}.dcm") for name in "abc"], "a.dcm b.dcm c.dcm"),
    "volumes without suffix": (lambda at: [volume_of_frames(at, name) for name in "ab"], "a b"),
    "volumes of one series": (
        lambda at: [volume_of_frames(at, f"{name}.IMA", SeriesInstanceUID="1.5") for name in "ab"],
        "a.IMA b.IMA",
    ),
    "series and scout": (lambda at: [series(at, "1.2"), write_dicom(at / "scout.dcm", PIXELS)], "::1.2 scout.dcm"),
    "two series": (lambda at: [series(at, "1.2"), series(at, "1.3", prefix="b")], "::1.2 ::1.3"),
    "series and volume": (lambda at: [series(at, "1.2"), volume_of_frames(at, "v.dcm")], "::1.2 v.dcm"),
    "series and picture": (
        lambda at: [series(at, "1.2"), Image.new("L", (9, 9)).save(at / "z.png")],
        " z.png",
    ),
    "series and dead link": (lambda at: [series(at, "1.2"), (at / "dead").symlink_to(at / "absent")], " dead"),
}


@pytest.mark.parametrize(("write", "images"), TOGETHER.values(), ids=TOGETHER)
def test_each_volume_of_a_folder_is_listed_by_itself(tmp_path, write, images):
    folder = tmp_path / "s"
    folder.mkdir()
    write(folder)
    expected = [
        f"{folder}{name}" if name.startswith("::") or not name else f"{folder}/{name}" for name in images.split(" ")
    ]
    found = list_images(folder, spatial_dims=3)
    assert sorted(found) == sorted(expected)
    for path in found:
        if path.endswith(("dead", ".png")) or "scout" in path:
            continue
        assert len(read_image(path)[0].shape) == 4


def test_objects_without_pixels_beside_a_series_are_counted(tmp_path):
    series(tmp_path, "1.2")
    report = dicom_dataset(PIXELS, SOPClassUID=BasicTextSRStorage)
    del report.PixelData, report.Rows
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    write_dicom(tmp_path / "scout.dcm", PIXELS)
    passed_over = PassedOver()
    found = volumes(sorted(map(str, tmp_path.iterdir())), passed_over)
    assert found == [f"{tmp_path}::1.2", f"{tmp_path}/scout.dcm"]
    assert passed_over.text() == "files passed over: 1 (DICOM without pixels 1)"


def test_files_that_are_no_dicom_are_volumes_each(tmp_path):
    for name in ("a.nii.gz", "b.nii", "c.PNG"):
        (tmp_path / name).touch()
    Image.new("L", (4, 4)).save(tmp_path / "d", "BMP")
    names = sorted(map(str, tmp_path.iterdir()))
    assert volumes(names) == names
