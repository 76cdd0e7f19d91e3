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
from tuned_bundles import OTOSCOPY, SMALL

from monai_weckd.data.phantoms import make_phantom
from monai_weckd.tune.space import DEFAULTS, parse_parameters
from monai_weckd.tune.training import TunedBundle


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return make_phantom("otoscopy", tmp_path_factory.mktemp("phantom") / "data", items=96, seed=0)


@pytest.fixture
def make(dataset, tmp_path):
    def make(bundle=OTOSCOPY, data=dataset, *, parameters=DEFAULTS, overlays=(), changes=None, **options):
        cache = options.pop("cache_dir", tmp_path / "cache")
        changes = {**SMALL, **(changes or {})}
        overlays, parameters = ["scratch.json", *overlays], parse_parameters(parameters)
        return TunedBundle(
            bundle, data, cache_dir=cache, parameters=parameters, overlays=overlays, changes=changes, **options
        )

    return make
