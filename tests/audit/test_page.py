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

import io
import json
from dataclasses import replace

import pytest
from PIL import Image

from monai_weckd.audit.audit import Audit
from monai_weckd.audit.findings import KINDS, Finding
from monai_weckd.audit.page import prepare_folder, write_audit
from monai_weckd.audit.results import RunResults, measure_subgroup
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.utils.tables import read_table

NAMES = ["<script>alert(1)</script>.png", "=1+1.png", "a&b\"'.png", "bytes \udcff.png"]


def picture(path):
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), (200, 30, 30)).save(buffer, format="PNG")
    return buffer.getvalue()


def make_audit(findings=None, names=NAMES):
    items = [{"id": name, "image": name, "group": f"patient {i}", "label": i % 2} for i, name in enumerate(names)]
    if findings is None:
        findings = [
            Finding("exact_duplicate", (0, 1), "different groups: same bytes", 1.0),
            Finding("label", (2,), "labeled <b>", 0.1, "=well"),
            Finding("quality", (3,), "blank", 0.0),
        ]
    limits = {
        "near_duplicate": dict.fromkeys(
            ("distance", "correlation", "usual_distance", "usual_correlation"), float("nan")
        ),
        "other_kind": {"limit": 0.2, "usual": 0.1},
        "quality": {"contrast": 0.1, "saturated": 0.1, "sharpness": 0.1},
    }
    return Audit(items, LabelKind(("<b>", "=well")), findings, limits, 4)


def written(audit, folder):
    write_audit(audit, folder, picture=picture, about={"bundle": "ears", "passed_over": "columns not used: eye"})
    page = (folder / "audit.html").read_text(encoding="utf-8")
    table = (folder / "audit.csv").read_bytes().decode("utf-8", errors="surrogateescape")
    return page, table, json.loads((folder / "audit.json").read_text(encoding="utf-8"))


def test_names_are_escaped_and_nothing_is_loaded(tmp_path):
    page, _, _ = written(make_audit(), tmp_path)
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.png" in page
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('src="data:image/jpeg;base64,') == page.count("src=") == 4


def test_no_file_names_a_group(tmp_path):
    assert not any("patient 1" in str(part) for part in written(make_audit(), tmp_path))


def test_the_table_has_all_findings_and_no_formula(tmp_path):
    _, table, content = written(make_audit(), tmp_path)
    assert "\n=" not in table
    assert ",=" not in table
    rows = read_table(table)
    assert [row["file"] for row in rows] == [NAMES[0], NAMES[2], NAMES[3]]
    assert rows[0]["other_file"] == NAMES[1]
    assert rows[1]["suggested_label"] == "=well"
    assert [row["file"] for row in content["findings"]] == [row["file"] for row in rows]
    assert content["counts"] == {**dict.fromkeys(KINDS, 0), "exact_duplicate": 1, "label": 1, "quality": 1}
    assert content["limits"]["near_duplicate"]["distance"] is None


def test_the_page_shows_twenty_of_a_kind_and_counts_the_others(tmp_path):
    findings = [Finding("label", (place,), "x", 0.1, "=well") for place in range(33)]
    page, table, _ = written(make_audit(findings, [f"{i}.png" for i in range(33)]), tmp_path)
    assert page.count("<img") == 20
    assert "The first 20 of 33." in page
    assert len(read_table(table)) == 33


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_tile_and_a_section(tmp_path, kind):
    page, _, _ = written(make_audit([Finding(kind, (0, 1), "this is it")]), tmp_path)
    assert f'<h2 id="{kind}">{KINDS[kind]}: 1</h2>' in page
    assert page.count("<h2 id=") == 1
    assert "this is it" in page


def test_a_page_without_findings_says_so(tmp_path):
    page, _, _ = written(make_audit([]), tmp_path)
    assert "There are no suggestions." in page
    assert "Every image is its own group." in page


@pytest.mark.parametrize("name", ["audit.html", "audit.csv", "audit_counts.csv", "audit.json"])
def test_an_earlier_audit_is_kept_unless_told(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match=f"output_dir: expected a folder without an audit, got .* with {name}"):
        prepare_folder(tmp_path, overwrite=False)
    assert prepare_folder(tmp_path, overwrite=True) == tmp_path
    with pytest.raises(NotADirectoryError, match="output_dir: expected a folder, got a file"):
        prepare_folder(tmp_path / name, overwrite=True)


def with_subgroups(names=("<i>ray", "=b"), run=None):
    audit = make_audit([])
    rows = [
        {
            "attribute": attribute,
            "value": value,
            "images": 4,
            "groups": 3,
            "classes": {"<b>": {"images": 3, "groups": 2}, "=well": {"images": 1, "groups": 1}},
            "result": run and measure_subgroup(run, audit.items),
        }
        for attribute, value in (
            ("all", ""),
            ("class", "=well"),
            *(("scanner", name) for name in names),
            ("scanner", ""),
        )
    ]
    return replace(audit, subgroups=rows, run=run)


def test_counts_are_on_the_page_and_in_a_table(tmp_path):
    page, _, content = written(with_subgroups(), tmp_path)
    assert "<i>ray" not in page
    assert "&lt;i&gt;ray" in page
    assert "Not known for any image: site, sex, age." in page
    assert "Results of the training" not in page
    text = (tmp_path / "audit_counts.csv").read_text()
    assert ",=" not in text
    rows = read_table(text)
    assert [row["class"] for row in rows if row["value"] == "=b"] == ["", "<b>", "=well"]
    assert [row["class"] for row in rows if row["attribute"] == "class"] == [""]
    assert len(content["subgroups"]) == 5
    assert content["run"] is None


def test_results_stand_beside_counts_and_few_groups_have_no_interval(tmp_path):
    run = RunResults("validation", {name: [0.7, 0.3] for name in NAMES}, 2)
    page, _, content = written(with_subgroups(run=run), tmp_path)
    assert "Measured on the 4 images of its validation split." in page
    assert "2 further images of that split are not in this data set" in page
    assert "too few" in page
    row = read_table((tmp_path / "audit_counts.csv").read_text())[0]
    assert (row["tested_images"], row["accuracy"], row["accuracy_low"]) == ("4", "0.5", "too few")
    assert content["run"] == {"split": "validation", "images": 4, "absent": 2}


def test_of_many_values_the_page_shows_twenty(tmp_path):
    page, _, _ = written(with_subgroups([f"ray {i}" for i in range(30)]), tmp_path)
    assert "ray 19<" in page
    assert "ray 20<" not in page
    assert "(the first 20; 11 more in audit_counts.csv)" in page
