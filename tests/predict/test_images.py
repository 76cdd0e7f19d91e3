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
from PIL import Image
from prediction_models import OTOSCOPY, untrained_model

from monai_weckd.predict import images
from monai_weckd.predict.model import PredictionBundle


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return untrained_model(tmp_path_factory.mktemp("output"), spatial_size=[192, 192])


def test_no_more_than_two_batches_are_in_memory(model, tmp_path):
    bundle, asked = PredictionBundle(OTOSCOPY, model), []
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)
    load = bundle.load
    bundle.load = lambda path: (asked.append(path), load(str(picture)))[1]
    for number, batch in enumerate(images.predict_images(bundle, [str(i) for i in range(20)], batch_size=3)):
        assert [item.path for item in batch] == [str(i) for i in range(3 * number, min(3 * number + 3, 20))]
        assert len(asked) <= 3 * number + 6
    assert len(asked) == 20


def test_the_features_of_an_items_images_are_pooled(model, tmp_path):
    bundle = PredictionBundle(OTOSCOPY, model)
    paths = []
    for number in range(5):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.linear_gradient("L").rotate(20 * number).convert("RGB").save(paths[-1])
    (tmp_path / "bad.png").write_bytes(b"no picture")
    items = {"a": paths[:1], "b": [*paths[1:], str(tmp_path / "bad.png")], "c": [str(tmp_path / "bad.png")]}
    found = [item for batch in images.predict_items(bundle, items, batch_size=2) for item in batch]
    assert [(item.path, item.images, item.bad) for item in found] == [("a", 1, 0), ("b", 5, 1), ("c", 1, 1)]
    (single,) = next(images.predict_images(bundle, paths[:1], batch_size=1))
    np.testing.assert_allclose(found[0].probabilities, single.probabilities, rtol=1e-4)
    features = bundle.predict_features(torch.stack(list(map(bundle.load, paths[1:]))))[1]
    expected = bundle.classify(features.mean(dim=0, keepdim=True))[0]
    np.testing.assert_allclose(found[1].probabilities, expected, rtol=1e-4)
    assert found[0].fault == ""
    assert "bad.png" in found[1].fault
    assert found[2].probabilities is None
    assert found[2].fault.startswith("no image can be read, first ")
