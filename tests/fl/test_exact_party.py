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

from monai_weckd.fl.exact_party import ExactParty


def test_what_is_wrong_at_a_site_stays_in_its_log(tmp_path, caplog):
    party = ExactParty(
        {
            "bundle": "bundles/otoscopy_chain_classification",
            "dataset_dir": str(tmp_path / "patient Smith"),
            "output_dir": str(tmp_path / "out"),
        }
    )
    answer = party.answer("moments", {})
    assert answer.fault == "ValueError, see its log"
    assert not answer.sums
    assert "patient Smith" in caplog.text
