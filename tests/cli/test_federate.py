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

from monai_weckd.__main__ import main
from monai_weckd.fl import job

OPTIONS = {
    "bundle": "/bundle",
    "sites": "north,south",
    "dataset_dir": "/data/{site}",
    "output_dir": "/output/{site}",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": "north,north"}, "sites: expected two different names or more, got ['north', 'north']."),
        ({"hours": "0"}, "hours: expected a number above 0, got 0.0."),
        ({"on_missing": "wait"}, "on_missing: expected one of ('stop', 'skip'), got 'wait'."),
        ({"mode": "chains"}, "mode: expected one of ('exact', 'chain', 'average'), got 'chains'. Did you mean"),
        ({"teachers": "all"}, "teachers: expected it with --mode chain alone, got exact. Leave it out."),
        ({"there_and_back": None}, "there_and_back: expected it with --mode chain alone, got exact. Leave it out."),
        (
            {"exact_head": None},
            "exact_head: expected it with --mode chain or average alone, got exact. Leave it out.",
        ),
        ({"mode": "chain", "rounds": "3"}, "rounds: expected it with --mode average alone, got chain. Leave it out."),
        ({"mode": "chain", "teachers": "both"}, "teachers: expected one of ('last', 'all'), got 'both'."),
        ({"mode": "average", "rounds": "0"}, "rounds: expected 1 or more, got 0."),
        ({"dataset_dir": "data"}, "dataset_dir: expected an absolute path where the job runs, got 'data'."),
        (
            {"mode": "chain", "server_dir": "kept"},
            "server_dir: expected an absolute path where the job runs, got 'kept'",
        ),
        ({"output_dir": "/output", "simulate": None}, "output_dir: expected {site} in it with --simulate, got"),
        ({"job_dir": "/my job", "simulate": None}, "job_dir: expected a path without spaces, since NVIDIA FLARE's"),
    ],
)
def test_what_cannot_work_is_refused(changes, message, tmp_path, capsys):
    given = {**OPTIONS, "job_dir": str(tmp_path / "job"), **changes}
    assert main(["federate", *(f"--{key}" + (f"={value}" if value else "") for key, value in given.items())]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "job").exists()


def test_the_missing_package_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(job, "has_nvflare", False)
    assert main(["federate", *(f"--{key}={value}" for key, value in OPTIONS.items()), f"--job_dir={tmp_path}"]) == 1
    assert "federate: expected the package nvflare, got none. Install it: pip" in capsys.readouterr().err
