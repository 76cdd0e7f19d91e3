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

import pytest

from monai_weckd.data.masks import find_masks, is_mask_folder


@pytest.mark.parametrize(
    ("files", "masks"),
    [
        ("images/1.png images/2.png", "masks/1.png masks/2.png"),
        ("imagesTs/1.nii.gz", "labelsTs/1.nii.gz"),
        ("1.png 2.png", "1_mask.png 2-Seg.png"),
        ("p1/image.png p2/image.png", "p1/label.png p2/label.png"),
        ("p1/p1_t1.nii.gz p1/p1_flair.nii.gz", "p1/p1_seg.nii.gz"),
        ("p1/1.png", "p1/masks/1.png"),
        ("mask.dcm image.dcm", ""),  # a header tells what DICOM is
        ("mask/1.png mask/2.png other/1.png", ""),  # without a folder of images
        ("hand/left_thumb.png hand/left_index.png seg/1.png seg/2.png", ""),
    ],
)
def test_masks_beside_images_are_found_by_their_names(files, masks):
    found = find_masks([*files.split(), *masks.split()])
    assert list(found) == masks.split()
    assert set(found.values()) <= set(files.split())


def test_a_mask_is_told_with_its_own_image():
    assert find_masks(["1.png", "2.png", "2_mask.png"]) == {"2_mask.png": "2.png"}
    assert find_masks(["p1_t1.nii", "p2_t1.nii", "p2_seg.nii"]) == {"p2_seg.nii": "p2_t1.nii"}


@pytest.mark.parametrize(
    ("name", "expected"), [("GroundTruth", True), ("ill_masks", True), ("SegmentationClass", True), ("labels", False)]
)
def test_folders_that_can_be_no_class(name, expected):
    assert is_mask_folder(name) is expected
