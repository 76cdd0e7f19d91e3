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

from pathlib import Path

import pytest
from phantom_files import KINDS

from monai_weckd.data.phantoms import make_phantom


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> dict[str, Path]:
    """One phantom of each kind, large enough to fit a linear classifier to."""
    root = tmp_path_factory.mktemp("phantoms")
    return {kind: make_phantom(kind, root / kind, items=30 if kind == "brain_mri_3d" else 60) for kind in KINDS}
