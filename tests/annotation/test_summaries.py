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
from scipy.stats import entropy

from monai_weckd.annotation.summaries import described

CLASSES = ("ill", "Background")


def test_a_probability_row_as_json():
    row = np.array([0.25, 0.75])
    found = described(row, CLASSES)
    assert (found["label"], found["idx"]) == ("Background", 1)
    assert found["prediction"] == [
        {"idx": 0, "label": "ill", "score": 0.25},
        {"idx": 1, "label": "Background", "score": 0.75},
    ]
    assert found["entropy"] == pytest.approx(entropy(row))
    assert described(np.array([1.0, 0.0]), CLASSES)["entropy"] == 0
