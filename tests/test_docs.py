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
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"

pytestmark = pytest.mark.slow  # and `make docs` says the same


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Build the documentation as `make docs` does, and return its folder."""
    pytest.importorskip("sphinx", reason="the documentation wants the extra 'docs'")
    out = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", str(DOCS), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    return out


def test_all_pages_are_built_without_a_warning(pages):
    sources = [path.relative_to(DOCS) for suffix in ("md", "rst") for path in DOCS.rglob(f"*.{suffix}")]
    assert [path for path in sources if not (pages / path.with_suffix(".html")).exists()] == []


@pytest.mark.parametrize(
    "package",
    [
        "",
        ".annotation",
        ".data",
        ".engines",
        ".fl",
        ".handlers",
        ".losses",
        ".metrics",
        ".networks",
        ".selection",
        ".transforms",
        ".tune",
        ".visualize",
    ],
)
def test_the_reference_has_all_public_names(pages, package):
    html = "".join(path.read_text(encoding="utf-8") for path in (pages / "reference").glob("*.html"))
    name = f"monai_weckd{package}"
    public = [each for each in importlib.import_module(name).__all__ if each != "__version__"]
    assert [each for each in public if f'id="{name}.{each}"' not in html] == []
