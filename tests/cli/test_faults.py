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

from monai_weckd.cli.faults import print_faults


def test_ten_faults_are_shown_and_the_others_counted(capsys):
    faults = [f"{number}.png: cannot be decoded" for number in range(12)]
    print_faults(faults, more=", see the log")
    *shown, rest = capsys.readouterr().out.splitlines()
    assert shown == [f"bad     {fault}" for fault in faults[:10]]
    assert rest == "bad     and 2 more, see the log"


def test_of_ten_faults_none_is_left_out(capsys):
    print_faults(["a"] * 10)
    assert capsys.readouterr().out == "bad     a\n" * 10
