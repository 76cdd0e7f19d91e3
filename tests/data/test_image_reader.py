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

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import LoadImage
from PIL import Image

from monai_weckd.data.verify import find_faults
from monai_weckd.transforms.load import LoadMedicalImage

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
@pytest.mark.parametrize("pixels", [GRAY, COLOR], ids=["gray", "color"])
def test_a_picture_is_that_of_monai(tmp_path, suffix, pixels):
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    image = LoadMedicalImage()(tmp_path / f"a.{suffix}")
    expected = LoadImage(reader="PILReader", ensure_channel_first=True)(tmp_path / f"a.{suffix}")
    assert image.dtype == torch.float32
    assert image.shape == expected.shape == (3 if pixels.ndim == 3 else 1, 7, 5)
    assert torch.equal(image.as_tensor(), expected.as_tensor())


def test_of_a_cameras_mpo_the_main_picture_is_taken(tmp_path):
    main, preview = np.full((40, 56, 3), 200, np.uint8), np.full((4, 6, 3), 9, np.uint8)
    Image.fromarray(main).save(
        tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(preview)]
    )
    with Image.open(tmp_path / "a.jpg") as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    np.testing.assert_allclose(LoadMedicalImage()(tmp_path / "a.jpg"), np.full((3, 56, 40), 200), atol=2)


@pytest.mark.parametrize("shape", [(6, 7, 8), (6, 7)])
@pytest.mark.parametrize(("intent", "is_map"), [(1001, False), (1002, True), (1005, True)])
def test_a_map_of_labels_is_refused_and_an_estimate_read(tmp_path, intent, is_map, shape):
    image = nib.Nifti1Image(RNG.integers(1, 99, shape).astype(np.int16), np.eye(4))
    image.header["intent_code"] = intent
    nib.save(image, tmp_path / "a.nii")
    if is_map:
        told = rf"a\.nii: expected an image, got a map of labels \(NIfTI intent {intent}\)\. Leave it out\."
        with pytest.raises(ValueError, match=told):
            LoadMedicalImage()(tmp_path / "a.nii")
    else:
        assert LoadMedicalImage()(tmp_path / "a.nii").shape == (1, *shape)


@pytest.mark.parametrize("target", ["absent", "a.png"])
def test_a_link_that_leads_nowhere_is_said_to_be_one(tmp_path, target):
    (tmp_path / "a.png").symlink_to(tmp_path / target)
    with pytest.raises(FileNotFoundError, match=r"a\.png: expected a file or folder, got a link that leads nowhere\."):
        LoadMedicalImage()(tmp_path / "a.png")
    (fault,) = find_faults([{"id": "a.png", "image": str(tmp_path / "a.png")}]).values()
    assert fault == "expected a file or folder, got a link that leads nowhere. Correct it."
