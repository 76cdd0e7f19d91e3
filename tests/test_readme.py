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

import re
from pathlib import Path

import torch

from monai_weckd.data.phantoms import make_phantom

README = Path(__file__).parents[1] / "README.md"


def test_the_trainer_s_example_runs(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    make_phantom("otoscopy", tmp_path / "images", items=96)
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("path/to/images", "images"), "README.md", "exec"), {})
    assert torch.load("model.pt", weights_only=True)


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert [link for link in links if not link.startswith("http") and not (README.parent / link).exists()] == []
