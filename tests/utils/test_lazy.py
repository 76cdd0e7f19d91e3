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
from types import ModuleType

import pytest

from monai_weckd.utils.lazy import lazy_names


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that imports a function and a subpackage on first use."""
    folder = tmp_path / "slow_start"
    folder.mkdir()
    (folder / "heavy.py").write_text("def lift(): ...\n")
    (folder / "part.py").write_text("")
    module = ModuleType("slow_start")
    module.__path__ = [str(folder)]
    module.__all__ = ["lift"]
    module.light = 1
    module.__getattr__, module.__dir__ = lazy_names("slow_start", {"lift": "heavy", "part": "part"})
    for name in ("slow_start", "slow_start.heavy", "slow_start.part"):
        monkeypatch.setitem(sys.modules, name, module)
    del sys.modules["slow_start.heavy"], sys.modules["slow_start.part"]
    return module


def test_a_module_is_imported_when_its_name_is_used(package):
    assert {"lift", "light"} <= set(dir(package))
    assert "slow_start.heavy" not in sys.modules
    assert package.lift.__module__ == "slow_start.heavy"
    assert package.part.__name__ == "slow_start.part"


def test_other_names_are_none_of_the_package(package):
    with pytest.raises(AttributeError, match="module 'slow_start' has no attribute 'drop'"):
        _ = package.drop
