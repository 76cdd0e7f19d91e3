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
import subprocess
import sys

import pytest
import torch

from monai_weckd.utils.system import available_processors, limit_threads


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("text", "expected"), [("max 100000", 60), ("150000 100000", 1), ("400000 100000", 4), ("1 100000", 1)]
)
def test_processors_are_those_of_the_affinity_and_the_quota(tmp_path, monkeypatch, text, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(60)), raising=False)
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert available_processors(tmp_path / "cpu.max") == expected
    assert available_processors(tmp_path / "absent") == 60


@pytest.mark.usefixtures("threads")
def test_threads_are_limited(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(60)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert limit_threads() == torch.get_num_threads() == 8
    assert limit_threads(3) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert limit_threads(5) == 3  # as it was: the environment is in charge


def test_threads_of_a_fresh_process_follow_the_environment():
    code = "from monai_weckd.utils.system import limit_threads; print(limit_threads(1))"
    for environment, expected in (({}, "1"), ({"OMP_NUM_THREADS": "2"}, "2")):
        kept = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        found = subprocess.run(
            [sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == expected
