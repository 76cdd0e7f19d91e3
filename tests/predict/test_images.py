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
