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
import torch

from monai_weckd.annotation.training import ImagePredictor
from monai_weckd.data.prepared import load_image
from monai_weckd.predict.model import class_probabilities, probability_fault

UNPREPARED, REPAIR = "expected an image that can be prepared, got one that cannot", "Repair the file or leave it out."


class Loading:
    """Stands for the preprocessing: gives an image, or raises, as MONAI does, an error that wraps that of a decoder."""

    def __init__(self, image=None, error=None):
        self.image, self.error = image, error

    def __call__(self, data):
        if self.error is not None:
            raise RuntimeError("applying transform <Loading>") from self.error
        return {"image": self.image}


def network(bias=0.0):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval()
    layers[1].bias.data += bias
    return layers


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("a.png: cannot be\n decoded"), "a.png: cannot be decoded"),
        (OSError("broken"), f"a.png: {UNPREPARED} (a transform fails: broken). {REPAIR}"),
        (EOFError(), f"a.png: {UNPREPARED} (it ends too early). {REPAIR}"),
        (
            np.linalg.LinAlgError("SVD"),
            f"a.png: {UNPREPARED} (its voxel sizes or directions are zero or no numbers). {REPAIR}",
        ),
        (KeyError("tag"), f"a.png: {UNPREPARED} (a transform fails: 'tag'). {REPAIR}"),
    ],
)
def test_why_an_image_cannot_be_read_is_one_line_with_its_name(error, message):
    with pytest.raises(ValueError, match=r"^a\.png: ") as caught:
        load_image(Loading(error=error), "a.png", 2)
    assert str(caught.value) == message


def test_other_dimensions_are_refused():
    assert load_image(Loading(np.zeros((3, 2, 2), dtype=np.float32)), "a.png", 2).shape == (3, 2, 2)
    with pytest.raises(ValueError, match=r"a\.png: expected an image of 3 dimensions, got 2\. Leave it out\."):
        load_image(Loading(np.zeros((3, 2, 2))), "a.png", 3)


def test_probabilities_are_a_softmax_or_what_the_bundle_makes_of_logits():
    student, images = network(), torch.rand(4, 3, 2, 2)
    with torch.no_grad():
        expected = torch.softmax(student(images), dim=1).numpy()
    np.testing.assert_allclose(class_probabilities(student, images), expected, rtol=1e-6)
    found = class_probabilities(
        student, images, inferer=lambda given, net: net(2 * given), postprocessing=lambda logits: logits + 1
    )
    with torch.no_grad():
        np.testing.assert_allclose(found, student(2 * images).numpy() + 1, rtol=1e-6)


def test_an_image_that_gives_no_numbers_is_refused():
    image = torch.rand(3, 2, 2)
    found = ImagePredictor(network(), Loading(image), 2).predict("a.png")
    np.testing.assert_allclose(found, class_probabilities(network(), image[None])[0], rtol=1e-6)
    assert probability_fault("a.png", found) == ""
    image[0, 0, 0] = torch.nan
    message = "a.png: expected finite probabilities, got others. Look for NaN in the image."
    with pytest.raises(ValueError, match="finite") as caught:
        ImagePredictor(network(), Loading(image), 2).predict("a.png")
    assert str(caught.value) == message == probability_fault("a.png", np.array([0.5, np.inf]))
