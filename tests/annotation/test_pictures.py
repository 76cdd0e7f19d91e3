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

import nibabel
import numpy as np
import pytest
from dicom_files import write_dicom, write_series
from PIL import Image

from monai_weckd.annotation import describe_image, image_png
from monai_weckd.data.image_reader import read_image

# from indices to mm in RAS: axial as DICOM has it, axial as NIfTI has it, sagittal, coronal with axes swapped, oblique
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
LYING = {
    "axial, LPS": LPS,
    "axial, RAS": np.diag([2.0, 1.0, 3.0, 1.0]),
    "sagittal": np.array([[0, 0, 2, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]),
    "coronal": np.array([[0, 1, 0, 0], [0, 0, 2, 0], [-3, 0, 0, 0], [0, 0, 0, 1.0]]),
    "oblique": np.array([[0.9, 0.3, 0, 0], [-0.3, 0.9, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
}


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def volume_file(path, array, affine=LPS):
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), affine), path)
    return str(path)


@pytest.fixture
def volume(tmp_path):
    array = np.arange(4 * 3 * 2, dtype=np.float32).reshape(4, 3, 2)
    return volume_file(tmp_path / "v.nii.gz", array), array


def test_refuses_a_slice_or_window_that_there_is_not(volume):
    with pytest.raises(ValueError, match=r"slice: expected a number from 0 to 1, got 2\. Pass another\."):
        image_png(volume[0], number=2)
    for width in (0, np.inf, np.nan):
        with pytest.raises(ValueError, match=rf"width: expected a finite number above 0, got {width}\. Pass another\."):
            image_png(volume[0], width=width)
    with pytest.raises(ValueError, match=r"center: expected a finite number, got nan\. Pass another\."):
        image_png(volume[0], center=np.nan)


def test_refuses_what_has_two_channels(tmp_path):
    path = volume_file(tmp_path / "two.nii.gz", np.zeros((3, 3, 3, 1, 2)))
    with pytest.raises(ValueError, match=r"image: expected gray or color, got 2 channels\. Convert it\."):
        describe_image(path)


def test_a_picture_comes_out_as_it_is(tmp_path):
    color = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(color).save(tmp_path / "a.png")
    Image.fromarray(color[..., 0]).save(tmp_path / "b.png")
    dicom = write_dicom(tmp_path / "c.dcm", color)
    np.testing.assert_array_equal(pixels(image_png(str(tmp_path / "a.png"))), color)
    np.testing.assert_array_equal(pixels(image_png(str(tmp_path / "b.png"))), color[..., 0])
    np.testing.assert_array_equal(pixels(image_png(dicom)), color)
    common = {"shape": [7, 5], "slices": 1, "pixel": [1.0, 1.0], "edges": None, "modality": "", "series": ""}
    none = dict.fromkeys(("window", "auto", "limits"))
    assert describe_image(str(tmp_path / "a.png")) == {"kind": "color", **common, **none}
    gray = describe_image(str(tmp_path / "b.png"))
    limits = {"low": color[..., 0].min(), "high": color[..., 0].max()}
    low, high = np.percentile(color[..., 0], (1, 99))
    auto = pytest.approx({"center": (low + high) / 2, "width": high - low})
    window = {"center": 127.5, "width": 255.0}
    assert gray == {"kind": "gray", **common, "window": window, "auto": auto, "limits": limits}


def test_a_slice_of_a_volume_in_a_window(volume):
    path, array = volume
    found = describe_image(path)
    assert (found["kind"], found["shape"], found["slices"]) == ("volume", [4, 3, 2], 2)
    low, high = np.percentile(array, (1, 99))
    assert found["window"] == pytest.approx({"center": (low + high) / 2, "width": high - low}, rel=1e-5)
    assert found["limits"] == {"low": 0, "high": 23}
    for number in (0, 1):
        expected = np.clip((array[..., number].T - 2) * 255 / 20, 0, 255).round()
        np.testing.assert_array_equal(pixels(image_png(path, number=number, center=12, width=20)), expected)
    assert image_png(path) == image_png(path, number=1, **found["window"])


def test_a_dicom_series_begins_with_its_own_window(tmp_path):
    array = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)
    folder = tmp_path / "series"
    write_series(folder, array, LPS, WindowCenter=[40, 300], WindowWidth=[400, 2000])
    assert describe_image(str(folder))["window"] == {"center": 40, "width": 400}
    read = read_image(folder)[0][0]
    for number in range(4):
        expected = np.clip((read[..., number].T + 160) / 400 * 255, 0, 255)
        np.testing.assert_allclose(pixels(image_png(str(folder), number=number)), expected, atol=0.5001)


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"WindowCenter": 1, "WindowWidth": 0},
        {"WindowCenter": 90000, "WindowWidth": 10},
        {"WindowCenter": 3990, "WindowWidth": 100},
        {"WindowCenter": 10, "WindowWidth": 20},
        {"WindowCenter": 40, "WindowWidth": 400, "PhotometricInterpretation": "MONOCHROME1"},
    ],
    ids=[
        "none",
        "no width",
        "beyond all values",
        "nearly all black",
        "nearly all white",
        "of values before they were mirrored",
    ],
)
def test_where_a_header_has_no_window_of_use_most_values_are_shown(tmp_path, elements):
    array = np.random.default_rng(0).integers(0, 4000, (32, 32)).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", array, **elements)
    low, high = np.percentile(read_image(path)[0], (1, 99))
    assert describe_image(path)["window"] == pytest.approx({"center": (low + high) / 2, "width": high - low})


def test_few_values_on_a_wide_ground_and_one_value(tmp_path):
    array = np.zeros((20, 20, 4))
    assert describe_image(volume_file(tmp_path / "one.nii", array))["window"] == {"center": 0, "width": 1}
    array[3, 3, 3] = 8
    assert describe_image(volume_file(tmp_path / "few.nii", array))["window"] == {"center": 4, "width": 8}


@pytest.mark.parametrize("affine", LYING.values(), ids=LYING.keys())
def test_a_volume_is_turned_as_radiologists_see_it(tmp_path, affine):
    # a volume holds, at each place, how far it lies to the right, the front or the head
    grid = np.stack([*np.meshgrid(*map(np.arange, (5, 4, 3)), indexing="ij"), np.ones((5, 4, 3))])
    world = np.tensordot(affine, grid, axes=1)[:3]
    left_to_right, top_to_bottom = {}, {}
    for axis, (letter, place) in enumerate(zip("RAS", world, strict=True)):
        path = volume_file(tmp_path / f"{axis}.nii", place, affine)
        found = describe_image(path)
        shown = pixels(image_png(path, number=1, center=0, width=40)).astype(int)
        left_to_right[letter] = shown[:, -1].mean() - shown[:, 0].mean()
        top_to_bottom[letter] = shown[-1].mean() - shown[0].mean()
    # from the edge that is named, its direction decreases, and none decreases more
    assert found["edges"]["left"] == min(left_to_right, key=left_to_right.get)
    assert found["edges"]["top"] == min(top_to_bottom, key=top_to_bottom.get)
    assert "RAS".index(found["edges"]["left"]) < "RAS".index(found["edges"]["top"])
    columns, rows, _ = found["shape"]
    assert shown.shape == (rows, columns)
    sizes = sorted(np.linalg.norm(affine[:3, :2], axis=0))
    assert sorted(found["pixel"]) == pytest.approx(sizes)
    across = np.linalg.norm(affine[:3, 0 if columns == 5 else 1])
    assert found["pixel"][0] == pytest.approx(across)


def test_a_file_that_has_changed_is_read_again(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    assert pixels(image_png(str(path))).max() == 0
    path.unlink()
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(path)
    assert pixels(image_png(str(path))).min() == 9


def test_slices_of_a_series_are_known_as_such_and_their_modality(tmp_path):
    array = np.random.default_rng(0).integers(0, 4000, (8, 8)).astype(np.uint16)
    paths = [
        write_dicom(tmp_path / f"{number}.dcm", array, Modality="CT", SeriesInstanceUID=f"1.2.{number // 2}")
        for number in range(3)
    ]
    found = [describe_image(path) for path in paths]
    assert {one["modality"] for one in found} == {"CT"}
    assert found[0]["series"] == found[1]["series"] != found[2]["series"]
    assert "1.2" not in found[0]["series"]
