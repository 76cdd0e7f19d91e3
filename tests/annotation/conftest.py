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
from annotation_runs import QuietChain
from PIL import Image

from monai_weckd.annotation import AnnotationSession


@pytest.fixture(scope="session")
def studies(copy_ears, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "images"
    copy_ears(folder, 48)
    (folder / "normal" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for number in range(6):
        path = folder / f"g{number}" / "ear.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
    return folder


@pytest.fixture
def here(images, tmp_path):
    return AnnotationSession(QuietChain(tmp_path / "output"), images)
