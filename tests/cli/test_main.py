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

from monai_weckd.cli.main import main


def test_no_arguments_print_help(capsys):
    assert main([]) == 2
    assert "plan" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["plan"], "the following arguments are required: --dataset_dir"),
        (["plam"], "invalid choice: 'plam'"),
        (["plan", "--dataset_dir", ".", "--sed", "1"], "unrecognized arguments: --sed"),
        (["plan", "--dataset_dir", ".", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["plan", "--dataset_dir", ".", "--stratify", "no"], "argument --stratify: expected true or false, got 'no'"),
        (["phantom"], "the following arguments are required: --kind, --out"),
    ],
)
def test_wrong_usage(capsys, argv, message):
    with pytest.raises(SystemExit) as error:
        main(argv)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
