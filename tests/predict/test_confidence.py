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

import os

from monai_weckd.predict.confidence import validation_text
from monai_weckd.utils.files import write_atomically
from monai_weckd.utils.tables import table_text


def test_validation_items_may_have_names_that_are_no_text(tmp_path):
    rows = [{"id": os.fsdecode(b"\xff.png"), "split": "val", "label": "a", "predicted": "a", "probability_a": 0.9}]
    write_atomically(tmp_path / "predictions.csv", table_text(list(rows[0]), rows))
    text = validation_text(tmp_path / "model.pt", 0.5)
    assert text.startswith("on validation 0 of 1 without a class (0%), accuracy of the others 1.000")
