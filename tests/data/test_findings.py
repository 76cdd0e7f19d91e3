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

import numpy as np
import pytest
from dataset_folders import manifest, rows

from monai_weckd.data import load_datalist, plan_datalist, verify_images
from monai_weckd.data.datalist import Datalist
from monai_weckd.data.duplicates import duplicate_notes
from monai_weckd.plan import PlanSettings

HEADER = "file,finding:effusion,finding: mass,group"


def listed(folder, **options):
    found = load_datalist(folder, findings=True, **options)
    return {item["id"]: item["label"].tolist() for item in found.items}, found


def test_a_column_for_each_finding(tmp_path):
    text = rows("a.png,1,0,p", "b.png,,u,q", "c.png,0.0,-1,q", header=HEADER)
    labels, found = listed(manifest(tmp_path, text))
    assert found.classes == ("effusion", "mass")
    assert found.findings
    assert labels == {"a.png": [1, 0], "b.png": [-1, -1], "c.png": [0, -1]}
    assert [item["group"] for item in found.items] == ["p", "q", "q"]
    assert all(item["label"].dtype == np.float32 for item in found.items)
    assert found.passed_over.columns == []
    assert found.passed_over.missing == {"finding: mass 'u'": 1, "finding: mass '-1'": 1}


def test_a_column_with_names(tmp_path):
    text = rows("a.png,mass|effusion", "b.png,", "c.png,?", header="file,findings")
    labels, found = listed(manifest(tmp_path, text))
    assert found.classes == ("effusion", "mass")
    # an empty cell means that nothing was found, a question mark that nobody has looked
    assert labels == {"a.png": [1, 1], "b.png": [0, 0], "c.png": [-1, -1]}


def test_names_as_the_nih_writes_them(tmp_path):
    text = rows("a.png,Mass|Effusion", "b.png,No Finding", "c.png,Mass", header="file,Finding Labels")
    labels, found = listed(manifest(tmp_path, text))
    assert found.classes == ("Effusion", "Mass")
    assert labels == {"a.png": [1, 1], "b.png": [0, 0], "c.png": [0, 1]}


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        (HEADER, ["a.png,1,2,p"], r"manifest.csv, row 2: expected 1, 0, u or nothing in 'finding: mass', got '2'"),
        ("file,finding:mass,finding:Mass", ["a.png,1,0"], r"expected distinct findings, got 'mass' and 'Mass'"),
        ("file,finding:", ["a.png,1"], r"expected a name for each finding, got \[''\]"),
        ("file,findings", ["a.png,mass|Mass"], r"expected distinct findings, got 'Mass' and 'mass'"),
        ("file,findings", ["a.png,"], r"expected a name for each finding, got \[\]"),
        (
            "file,label",
            ["a.png,ill"],
            r"expected columns 'finding:<name>' or a column 'findings', got \['file', 'label'\]",
        ),
    ],
)
def test_refuses_what_is_not_a_finding(header, lines, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        listed(manifest(tmp_path, rows(*lines, header=header)))


def test_refuses_folders(tmp_path):
    with pytest.raises(ValueError, match=r"expected a manifest.csv in .*, got none. .*folders have one class an image"):
        load_datalist(tmp_path, findings=True)


def test_findings_are_never_taken_for_classes(tmp_path):
    text = rows("a.png,1,0,p", "b.png,0,1,q", header=HEADER)
    with pytest.raises(ValueError, match=r"expected a column 'label' with one class an image, got findings. Pass find"):
        load_datalist(manifest(tmp_path, text))


def test_a_label_beside_findings_is_used_as_before(tmp_path):
    text = rows("a.png,ill,1", "b.png,well,0", header="file,label,finding:mass")
    found = load_datalist(manifest(tmp_path, text))
    assert (found.classes, found.findings) == (("ill", "well"), False)
    assert found.passed_over.columns == ["finding:mass"]
    labels, other = listed(tmp_path)
    assert labels == {"a.png": [1], "b.png": [0]}
    assert other.passed_over.columns == ["label"]


def test_identical_images_with_other_findings_are_reported(tmp_path):
    items = [
        {"id": name, "image": str(tmp_path / name), "group": "p", "label": np.array(label, dtype=np.float32)}
        for name, label in (("a.npy", [1, 0]), ("b.npy", [1, 1]), ("c.npy", [-1, -1]))
    ]
    for item in items:
        np.save(item["image"], np.zeros((4, 4), dtype=np.uint8))
    (note,) = duplicate_notes(items, ("effusion", "mass"))
    assert "3 images are byte-identical to another one with other labels" in note
    assert "'a.npy' (effusion=1, mass=0) and 'b.npy' (effusion=1, mass=1)" in note


def test_a_plan_holds_the_findings(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, (40, 2)).astype(np.float32)
    items = [{"id": f"{n}", "image": f"{n}", "group": f"{n // 2}", "label": label} for n, label in enumerate(labels)]
    datalist = Datalist(items, ("effusion", "mass"), findings=True)
    plan = plan_datalist(datalist, PlanSettings(selection="herding", test_fraction=0.25))
    assert plan.findings
    assert plan.from_json(plan.to_json()) == plan
    index = {item["id"]: item["label"] for item in items}
    for split in (plan.train, plan.test):
        values = np.array([index[key] for key in split])
        assert values.any(axis=0).all()
        assert not values.all(axis=0).any()


def test_verification_keeps_them(tmp_path):
    found = load_datalist(manifest(tmp_path, rows("a.png,1,0,p", header=HEADER)), findings=True)
    assert verify_images(found, on_bad_item="skip").findings
