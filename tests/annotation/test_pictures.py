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
from PIL import Image

from monai_weckd.annotation import describe_image, image_png


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.fixture
def volume(tmp_path):
    array = np.arange(4 * 3 * 2, dtype=np.float32).reshape(4, 3, 2)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "v.nii.gz")
    return str(tmp_path / "v.nii.gz"), array


def test_refuses_a_slice_or_window_that_there_is_not(volume):
    with pytest.raises(ValueError, match=r"slice: expected a number from 0 to 1, got 2\. Pass another\."):
        image_png(volume[0], number=2)
    with pytest.raises(ValueError, match=r"width: expected a number above 0, got 0\. Pass another\."):
        image_png(volume[0], width=0)


def test_a_picture_comes_out_as_it_is(tmp_path):
    color = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(color).save(tmp_path / "a.png")
    Image.fromarray(color[..., 0]).save(tmp_path / "b.png")
    np.testing.assert_array_equal(pixels(image_png(str(tmp_path / "a.png"))), color)
    np.testing.assert_array_equal(pixels(image_png(str(tmp_path / "b.png"))), color[..., 0])
    assert describe_image(str(tmp_path / "a.png")) == {"kind": "color", "shape": [7, 5], "slices": 1, "window": None}
    window = {"center": 127.5, "width": 255.0}
    assert describe_image(str(tmp_path / "b.png")) == {"kind": "gray", "shape": [7, 5], "slices": 1, "window": window}


def test_a_slice_of_a_volume_in_a_window(volume):
    path, array = volume
    found = describe_image(path)
    assert (found["kind"], found["shape"], found["slices"]) == ("volume", [4, 3, 2], 2)
    low, high = np.percentile(array, (1, 99))
    assert found["window"] == pytest.approx({"center": (low + high) / 2, "width": high - low}, rel=1e-5)
    for number in (0, 1):
        expected = np.clip((array[..., number].T - 2) * 255 / 20, 0, 255).round()
        np.testing.assert_array_equal(pixels(image_png(path, number=number, center=12, width=20)), expected)
    assert image_png(path) == image_png(path, number=1, **found["window"])
