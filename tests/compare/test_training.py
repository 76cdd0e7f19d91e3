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

import gc
import weakref
from pathlib import Path

import pytest

from monai_weckd.compare.training import ComparedBundle

OTOSCOPY = Path(__file__).resolve().parents[2] / "bundles" / "otoscopy_chain_classification"


class Knot:
    """What refers to itself, as engines do by their handlers."""

    def __init__(self):
        self.engine = self


def test_the_network_of_a_failed_run_leaves_the_memory(tmp_path, monkeypatch):
    left = []

    def fail(self, path, settings):
        engine = Knot()
        left.append(weakref.ref(engine))
        raise ValueError("no")

    monkeypatch.setattr(ComparedBundle, "_run", fail)
    with pytest.raises(ValueError, match=r"^no$"):
        ComparedBundle(OTOSCOPY, tmp_path).train(tmp_path / "run", {}, cache_dir=tmp_path)
    gc.collect()
    assert left[0]() is None
