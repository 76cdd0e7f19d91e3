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
from prediction_models import write_kind

from monai_weckd.predict.kind import KindReference, read_kind


def test_an_image_far_from_the_training_is_not_of_its_kind():
    rows = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.1, 0.0], [1.0, 0.0, 0.1]])
    kind = KindReference(rows, 0.1)
    near, far = kind.distances(torch.tensor([[5.0, 0.2, 0.0], [0.0, 0.0, 1.0]]))
    assert kind.columns(near) == {"distance": pytest.approx(near, abs=1e-5), "not_of_this_kind": ""}
    assert kind.columns(far)["not_of_this_kind"] == "yes"
    assert kind.columns(None) == {"distance": "", "not_of_this_kind": ""}
    with pytest.raises(ValueError, match=r"kind.npz: expected 3 features of an image, got \[2\]\. Keep the files"):
        kind.distances(torch.ones(1, 2))


def test_what_the_training_wrote_is_read(tmp_path):
    assert read_kind(tmp_path / "model.pt") is None
    write_kind(tmp_path / "model.pt", np.eye(3), 0.25)
    kind = read_kind(tmp_path / "model.pt")
    assert kind.limit == 0.25
    assert torch.equal(kind.features, torch.eye(3).half())


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "pickle", "other", "nan"])
def test_a_damaged_file_is_one_line(tmp_path, damage):
    path = tmp_path / "kind.npz"
    write_kind(tmp_path / "model.pt", np.full((3, 3), np.nan) if damage == "nan" else np.eye(3), 0.25)
    if damage == "pickle":
        np.savez(path, features=np.array([{}]), limit=0.1)
    elif damage == "other":
        np.savez(path, features=np.eye(3))
    elif damage != "nan":
        path.write_bytes({"cut": path.read_bytes()[:100], "text": b"no archive", "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"kind\.npz: expected f.*Restore it from a copy\.$"):
        read_kind(tmp_path / "model.pt")
