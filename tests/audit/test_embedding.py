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
import torch
from bundle_runs import OTOSCOPY
from PIL import Image

from monai_weckd.audit.embedding import check_frozen, embedded_images
from monai_weckd.bundle import BundleConfig
from monai_weckd.data import Datalist


@pytest.mark.parametrize("changes", [{"backbone#freeze": False}, {"overlays": ["scratch.json"]}])
def test_a_network_that_is_trained_is_refused(changes):
    changes = dict(changes)
    config = BundleConfig(OTOSCOPY, overlays=changes.pop("overlays", ()), changes=changes)
    with pytest.raises(ValueError, match=r"bundle: expected a frozen network in .*train\.json, got one that is"):
        check_frozen(config)


def test_images_are_embedded_in_the_order_of_the_items(tmp_path):
    for name, color in {"a": (200, 0, 0), "b": (0, 90, 250)}.items():
        Image.new("RGB", (40, 32), color).save(tmp_path / f"{name}.png")
    items = [{"id": name, "image": str(tmp_path / f"{name}.png"), "label": 0, "group": name} for name in "ab"]
    config = BundleConfig(OTOSCOPY, changes={"dataset_dir": str(tmp_path), "spatial_size": [32, 32]})
    check_frozen(config)
    found = embedded_images(config, Datalist(items, ("x", "y")))
    rows, other = found.gather([0, 1]), embedded_images(config, Datalist(items[::-1], ("x", "y"))).gather([0, 1])
    assert rows.ndim == 2
    assert not torch.equal(rows[0], rows[1])
    torch.testing.assert_close(other, rows.flip(0))
    assert found.images[0]["image"].shape == (3, 32, 32)
