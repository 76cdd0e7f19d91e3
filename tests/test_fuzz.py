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

"""Damaged files of each format, read in a process whose address space ends little above the budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
BUDGET = 2**26
KINDS = ["DICOM", "NIfTI", "NIfTI in gzip", "PNG", "JPEG", "TIFF", "BMP", "npz", "multipart", "JSON"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the address space of a process")


@pytest.mark.parametrize("count", [pytest.param(3000, id="3000", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused_within_the_budget(tmp_path, kind, count):
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS)))
    environment = {**os.environ, "PYTHONPATH": path, "MONAI_WECKD_MEMORY": str(BUDGET), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "fuzz_reader.py"), kind, str(count), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == []
    assert 0 < found["read"] < count
