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
import types

from monai_weckd.cli.main import main


def test_phantom(capsys, monkeypatch, tmp_path):
    calls = []
    module = types.SimpleNamespace(make_phantom=lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setitem(sys.modules, "monai_weckd.data.phantoms", module)
    out = str(tmp_path / "p")
    assert main(["phantom", "--kind", "blood_smear", "--out", out, "--items", "12", "--seed", "5"]) == 0
    assert calls == [(("blood_smear", out), {"items": 12, "seed": 5})]
    text = capsys.readouterr().out
    assert "synthetic" in text
    assert "prove nothing about patients" in text
    assert text.endswith(f"Next: python -m monai_weckd plan --dataset_dir {out}\n")
