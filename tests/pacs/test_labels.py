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
from fake_dicomweb import image
from pydicom import dcmread
from pydicom.uid import generate_uid

pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")

from monai_weckd.cli.main import main
from monai_weckd.data import ClassificationSRWriter, load_datalist
from monai_weckd.utils.tables import read_table

CLASSES = ["ill", "well"]


class Archive:
    """What has been fetched: series of images, and reports about them."""

    def __init__(self, root):
        self.images, self.reports, self.count = root / "images", root / "reports", 0
        self.reports.mkdir()

    def series(self, instances, **elements):
        """Add a series, and return its folder."""
        study, uid = generate_uid(), generate_uid()
        folder = self.images / uid
        folder.mkdir(parents=True)
        for _ in range(instances):
            instance, content = image(study, uid, **elements)
            (folder / f"{instance}.dcm").write_bytes(content)
        return folder

    def report(self, source, label, *, verified=False):
        writer = ClassificationSRWriter(CLASSES, model="m", version="1", bundle="b")
        self.count += 1
        path = self.reports / f"{self.count}.dcm"
        writer.write(path, [0.9, 0.1] if label == "ill" else [0.1, 0.9], source=source)
        if verified:
            dataset = dcmread(path)
            dataset.VerificationFlag = "VERIFIED"
            dataset.save_as(path)

    def manifest(self, *options):
        command = ["manifest", "--dataset_dir", self.images, "--reports", self.reports, *options]
        return main(list(map(str, command)))

    def rows(self):
        return read_table((self.images / "manifest.csv").read_bytes().decode())


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path)


def files(folder):
    return sorted(folder.glob("*.dcm"))


def test_a_manifest_that_is_there_is_kept(archive, capsys):
    archive.series(1)
    (archive.images / "manifest.csv").write_text("mine")
    assert archive.manifest() == 1
    assert "output: expected nothing at " in capsys.readouterr().err
    assert (archive.images / "manifest.csv").read_text() == "mine"


def test_no_series_is_told(archive, capsys):
    for _ in range(2):
        assert archive.manifest() == 1
        assert "dataset_dir: expected fetched series, got none in " in capsys.readouterr().err
        archive.images.mkdir(exist_ok=True)


def test_no_report_that_counts_is_told(archive, capsys):
    folder = archive.series(1)
    archive.report(files(folder)[0], "ill")
    other = archive.series(1)
    archive.report(files(other)[0], "ill", verified=True)
    for path in files(other):
        path.unlink()
    (archive.reports / "picture.dcm").write_bytes(files(folder)[0].read_bytes())
    assert archive.manifest() == 1
    message = f"reports: expected some about images in {archive.images}, got 1 of another kind, 1 of other images, 1 u"
    assert message in capsys.readouterr().err
    assert not (archive.images / "manifest.csv").exists()


def test_instances_are_labeled(archive, capsys):
    one = archive.series(2, PatientID="1")
    two = archive.series(1, PatientID="1")
    three = archive.series(1, PatientID="2")
    archive.report(files(one)[1], "ill", verified=True)
    archive.report(files(two)[0], "well", verified=True)
    archive.report(files(three)[0], "well")
    assert archive.manifest() == 0
    labels = {row["file"]: row["label"] for row in archive.rows()}
    assert labels == {
        f"{one.name}/{files(one)[0].name}": "",
        f"{one.name}/{files(one)[1].name}": "ill",
        f"{two.name}/{files(two)[0].name}": "well",
        f"{three.name}/{files(three)[0].name}": "",
    }
    assert "items   2 labeled, 2 not\nreports 1 passed over: unverified\n" in capsys.readouterr().out
    found = load_datalist(archive.images)
    assert found.classes == ("ill", "well")
    groups = {item["id"].split("/")[0]: item["group"] for item in found.items}
    assert groups[one.name] == groups[two.name] != groups[three.name]


def test_series_are_labeled(archive, capsys):
    one, two, three = archive.series(3), archive.series(2), archive.series(3)
    archive.report(one, "ill")
    archive.report(two, "well")
    archive.report(files(one)[0], "ill")  # and of one of its instances, too
    assert archive.manifest("--unverified") == 0
    labels = {row["file"]: row["label"] for row in archive.rows()}
    assert labels == {one.name: "ill", two.name: "well", three.name: ""}
    assert "items   2 labeled, 1 not\n" in capsys.readouterr().out
    assert len(load_datalist(archive.images).items) == 3


def test_a_report_of_a_study_is_one(archive, capsys):
    folder = archive.series(3)
    archive.report(files(folder)[0], "ill", verified=True)
    writer = ClassificationSRWriter(CLASSES, model="m", version="1", bundle="b")
    writer.build([([0.5, 0.5], path) for path in files(folder)]).save_as(archive.reports / "study.dcm")
    assert archive.manifest() == 0
    assert "reports 1 passed over: unverified\n" in capsys.readouterr().out


def test_two_reports_that_differ_are_told(archive, capsys):
    folder = archive.series(1)
    archive.report(files(folder)[0], "ill")
    archive.report(files(folder)[0], "well")
    assert archive.manifest("--unverified") == 1
    item = f"{folder.name}/{files(folder)[0].name}"
    assert f"reports: expected one class for {item}, got 'ill' and 'well'. Remove" in capsys.readouterr().err
    # a person decides
    archive.report(files(folder)[0], "ill")
    (archive.reports / "2.dcm").unlink()
    archive.report(files(folder)[0], "well", verified=True)
    assert archive.manifest("--unverified") == 0
    assert archive.rows()[0]["label"] == "well"
