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

import sys

import numpy as np
import pytest

from monai_weckd.apps.label.compat import register_missing


def test_what_cannot_be_imported_is_replaced_and_says_so_when_it_is_called(monkeypatch):
    for name in ("pydicom_seg", "torchvision", "torchvision.utils"):
        monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    register_missing()
    import pydicom_seg
    from torchvision.utils import make_grid

    assert pydicom_seg is sys.modules["pydicom_seg"]
    with pytest.raises(NotImplementedError, match="masks: expected none in a classification"):
        make_grid(np.zeros((1, 3, 8, 8)))


def test_what_can_be_imported_stays(monkeypatch):
    installed = {name: type(sys)(name) for name in ("pydicom_seg", "torchvision", "torchvision.utils")}
    for name, module in installed.items():
        monkeypatch.setitem(sys.modules, name, module)
    register_missing()
    assert {name: sys.modules[name] for name in installed} == installed
