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

import importlib
import sys

import pytest


@pytest.mark.parametrize("package", ["optuna", "sqlalchemy"])
def test_a_missing_package_names_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    # imported anew, and put back afterwards as it was
    monkeypatch.delitem(sys.modules, "monai_weckd.tune.backend", raising=False)
    with pytest.raises(
        ImportError, match=r"optuna: expected to be installed, got none\. Run pip install 'monai-weckd\[tune\]'"
    ):
        importlib.import_module("monai_weckd.tune.backend")
