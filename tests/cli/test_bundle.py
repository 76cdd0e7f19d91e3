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

import shlex

from monai_weckd.cli.main import main

NAME = "otoscopy_chain_classification"


def test_the_command_that_follows_can_be_pasted(capsys, tmp_path):
    assert main(["bundle", "--name", NAME, "--to", str(tmp_path / "my bundles")]) == 0
    first, command = capsys.readouterr().out.splitlines()
    target = tmp_path / "my bundles" / NAME
    assert first == f"The bundle is in {target}. Next:"
    words = shlex.split(command)
    assert words[:4] == ["python", "-m", "monai.bundle", "run"]
    assert dict(zip(words[4::2], words[5::2], strict=True)) == {
        "--config_file": str(target / "configs" / "train.json"),
        "--bundle_root": str(target),
        "--dataset_dir": "path/to/images",
        "--output_dir": "path/to/output",
    }
    assert (target / "configs" / "train.json").is_file()
