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
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.audit import count_found, plant
from monai_weckd.audit.audit import Audit
from monai_weckd.audit.findings import Finding
from monai_weckd.data import load_datalist


def test_planted_faults_are_what_is_counted(copy_ears, tmp_path):
    copy_ears(tmp_path / "data", 40)
    datalist = load_datalist(tmp_path / "data")
    (tmp_path / "copies").mkdir()
    planted, sources, wrong = plant(datalist, tmp_path / "copies", seed=0)
    before = {item["id"]: item for item in datalist.items}
    assert {item["id"] for item in planted.items if item["id"] in before} == set(before)
    changed = {item["id"] for item in planted.items if item["id"] in before and item != before[item["id"]]}
    assert changed == wrong
    assert len(sources) == len(wrong) == 10
    assert not wrong & set(sources.values())
    place_of = {item["id"]: place for place, item in enumerate(planted.items)}
    for copy, source in sources.items():
        assert planted.items[place_of[copy]]["label"] == before[source]["label"]
        with Image.open(tmp_path / "copies" / copy) as image:
            assert image.size == (102, 102)
    pairs = [Finding("near_duplicate", (place_of[source], place_of[copy]), "") for copy, source in sources.items()]
    right = [place_of[name] for name in before if name not in wrong]
    suggested = [Finding("label", (place,), "") for place in (*right[:15], *map(place_of.get, sorted(wrong)))]
    found = count_found(Audit(planted.items, planted.classes, [*pairs[:7], *suggested], {}, 50), sources, wrong)
    assert found == {"copies": 7, "pairs": 7, "wrong_labels": 5, "suggestions": 25}
