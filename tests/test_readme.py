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

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from process_copies import run_module

README = Path(__file__).parents[1] / "README.md"
PAGES = sorted((README.parent / "docs").rglob("*.md"))
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)
SMALL = ["--spatial_size", "[64, 64]"]
BACKBONE = "dinov2-base"  # a page that needs this folder gets a small untrained network in its format
COMMANDS = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def test_the_trainer_s_example_runs(copy_ears, tmp_path, monkeypatch):
    code = EXAMPLE.search(README.read_text()).group(1)
    copy_ears(tmp_path / "images", 96)
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("path/to/images", "images"), "README.md", "exec"), {})
    assert torch.load("model.pt", weights_only=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_the_documentation_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}  # of all blocks of a page
    for code in EXAMPLE.findall(page.read_text(encoding="utf-8")):
        exec(compile(code, page.name, "exec"), namespace)


@pytest.mark.parametrize("page", [page for page in PAGES if COMMANDS.search(page.read_text())], ids=lambda p: p.stem)
def test_the_commands_of_the_documentation_run(page, tmp_path):
    (tmp_path / "bundles").symlink_to(README.parent / "bundles")
    if BACKBONE in page.read_text():
        from backbone_folders import write  # wants transformers, else the page is skipped

        write(tmp_path / BACKBONE)
    for block in COMMANDS.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", "").splitlines():
            done = run_line(line, tmp_path)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def run_line(line, folder):
    """Run a line of a shell; of a module, in a copy of this process, which need not import everything again."""
    program, *words = shlex.split(line)
    if program == "python" and words[0] == "-m" and not set(line) & set("|<>&;$*`"):
        # images of another size take a minute less
        small = SMALL if words[1] == "monai.bundle" and BACKBONE not in line else []
        return run_module([*words[1:], *small], folder=folder)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(README.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith("http") and not (page.parent / link).exists()] == []
