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
from bundle_runs import OTOSCOPY
from PIL import Image

from monai_weckd.audit.audit import Audit, audit_data
from monai_weckd.audit.findings import KINDS, Finding
from monai_weckd.bundle import BundleConfig
from monai_weckd.data import load_datalist
from monai_weckd.plan.label_kind import LabelKind


def test_findings_are_counted_by_kind_in_their_order():
    findings = [Finding("label", (0,), "one"), Finding("quality", (1,), "blank"), Finding("label", (1,), "other")]
    audit = Audit([], LabelKind(("a", "b")), findings, {}, 0)
    assert [finding.text for finding in audit.of_kind("label")] == ["one", "other"]
    assert audit.counts == {**dict.fromkeys(KINDS, 0), "label": 2, "quality": 1}
    assert list(audit.counts) == list(KINDS)


def test_data_without_a_readable_image_are_refused(tmp_path):
    for name in ("ill/a.png", "well/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"no picture")
    config = BundleConfig(OTOSCOPY, changes={"dataset_dir": str(tmp_path), "spatial_size": [32, 32]})
    with pytest.raises(ValueError, match=r"image: expected readable files, got none of 2, first 'ill/a\.png': .* Rep"):
        audit_data(config, load_datalist(tmp_path))


def test_a_few_images_are_audited(tmp_path):
    for place, name in enumerate(("ill/a.png", "ill/b.png", "well/c.png", "well/d.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (40 * place, 90, 200)).save(tmp_path / name)
    (tmp_path / "ill" / "0.png").write_bytes(b"no picture")
    (tmp_path / "well" / "e.png").write_bytes((tmp_path / "ill" / "a.png").read_bytes())
    config = BundleConfig(OTOSCOPY, changes={"dataset_dir": str(tmp_path), "spatial_size": [32, 32]})
    audit = audit_data(config, load_datalist(tmp_path))
    assert audit.items[-1]["id"] == "ill/0.png"  # what cannot be read comes last
    assert [finding.places for finding in audit.of_kind("unreadable")] == [(5,)]
    (copy,) = audit.of_kind("exact_duplicate")
    assert [audit.items[place]["id"] for place in copy.places] == ["ill/a.png", "well/e.png"]
    assert [finding.kind for finding in audit.findings][:2] == ["unreadable", "exact_duplicate"]
    classes = [row for row in audit.subgroups if row["attribute"] == "class"]
    assert {row["value"]: row["images"] for row in classes} == {"ill": 2, "well": 3}
    assert {row["result"] for row in audit.subgroups} == {None}
