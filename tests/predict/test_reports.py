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
from dicom_files import write_dicom
from prediction_models import CLASSES, OTOSCOPY, untrained_model
from pydicom import dcmread
from small_bundles import NAMES, small_bundle

from monai_weckd.cli.main import main
from monai_weckd.data import read_classification_sr
from monai_weckd.predict.images import Prediction
from monai_weckd.predict.model import PredictionBundle
from monai_weckd.predict.reports import ReportFolder
from monai_weckd.predict.table import PredictionTable
from monai_weckd.utils.tables import read_table

pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")


@pytest.fixture
def bundle(tmp_path):
    return PredictionBundle(OTOSCOPY, untrained_model(tmp_path / "model"))


def test_a_folder_with_files_is_refused(bundle, tmp_path):
    with pytest.raises(
        FileExistsError, match=r"write_sr: expected an empty folder, got .* with files\. Pass another one"
    ):
        ReportFolder(tmp_path, bundle)


def test_only_dicom_images_with_probabilities_get_a_report(bundle, tmp_path):
    source = write_dicom(tmp_path / "a.dcm", np.zeros((8, 8), np.uint16), StudyInstanceUID="1.2.3")
    probabilities = np.array([0.5, 0.25, 0.125, 0.125])
    reports = ReportFolder(tmp_path / "reports", bundle)
    assert reports.write(Prediction(source, None, "broken"), 1) == ""
    assert reports.write(Prediction(str(tmp_path / "b.png"), probabilities), 2) == ""
    assert reports.write(Prediction(source, probabilities), 3) == ""
    assert reports.count == 1
    assert [path.name for path in reports.folder.iterdir()] == ["000003.dcm"]
    (found,) = read_classification_sr(reports.folder / "000003.dcm")
    assert list(found.probabilities) == CLASSES
    assert list(found.probabilities.values()) == list(probabilities)


def write_images(folder, count, studies=2):
    """Write pictures of several studies, whose scanner has used the first number that is free."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        keys = {"StudyInstanceUID": f"1.2.{number % studies + 1}", "SeriesNumber": 9001}
        write_dicom(folder / f"{number}.dcm", rng.integers(0, 99, (20, 30, 3), dtype=np.uint8), **keys)
    return folder


def predict(bundle, images, output, *options):
    command = ["predict", "--bundle", bundle, "--input", images, "--output", output, "--batch_size", "2", *options]
    return main([*map(str, command), "--ckpt", str(bundle / "models" / "model.pt")])


def reports_of(folder):
    return {path.name: dcmread(path) for path in sorted(folder.glob("*.dcm"))}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--write_sr", "reports", "--sr_per", "series"], "sr_per: expected one of ('image', 'study'), got 'series'."),
        (["--sr_per", "study"], "sr_per: expected --write_sr beside it, got 'study' alone. Pass a folder for reports."),
    ],
)
def test_wrong_options_are_told(capsys, tmp_path, options, message):
    assert predict(tmp_path, tmp_path, tmp_path / "out.csv", *options) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize(("per", "count"), [("image", 5), ("study", 2)])
def test_a_run_is_one_series_of_a_study(tmp_path, per, count):
    bundle, images = small_bundle(tmp_path / "bundle"), write_images(tmp_path / "in", 5)
    options = ["--write_sr", tmp_path / "reports", "--sr_per", per]
    assert predict(bundle, images, tmp_path / "out.csv", *options) == 0
    found = reports_of(tmp_path / "reports")
    assert len(found) == count
    series = {(one.StudyInstanceUID, one.SeriesInstanceUID, int(one.SeriesNumber)) for one in found.values()}
    assert sorted((study, number) for study, _, number in series) == [("1.2.1", 9002), ("1.2.2", 9002)]
    assert {one.SeriesDescription for one in found.values()} == {"Classes by Small"}
    assert {one.ManufacturerModelName for one in found.values()} == {"Small"}
    told = {
        report.images: report.probabilities
        for name in found
        for report in read_classification_sr(tmp_path / "reports" / name)
    }
    rows = read_table((tmp_path / "out.csv").read_text())
    assert told == {
        (dcmread(images / row["file"]).SOPInstanceUID,): {name: float(row[f"probability_{name}"]) for name in NAMES}
        for row in rows
    }


@pytest.mark.parametrize("per", ["image", "study"])
def test_a_killed_run_goes_on_in_its_series(monkeypatch, tmp_path, per):
    bundle, images = small_bundle(tmp_path / "bundle"), write_images(tmp_path / "in", 6)
    given = [bundle, images, tmp_path / "out.csv", "--write_sr", tmp_path / "reports", "--sr_per", per]
    write, calls = PredictionTable.write, []

    def written(table, rows):
        if len(calls) == 2:
            raise OSError("the disk is full")
        calls.append(write(table, rows))

    with monkeypatch.context() as patched:
        patched.setattr(PredictionTable, "write", written)
        assert predict(*given) == 1
    before = reports_of(tmp_path / "reports")
    assert len(before) == (6 if per == "image" else 0)  # the last two have no row yet
    assert predict(*given, "--resume") == 0
    after = reports_of(tmp_path / "reports")
    assert len({(one.StudyInstanceUID, one.SeriesInstanceUID) for one in after.values()}) == 2
    assert {one.SeriesInstanceUID for one in before.values()} <= {one.SeriesInstanceUID for one in after.values()}
    told = [report.images for name in after for report in read_classification_sr(tmp_path / "reports" / name)]
    assert len(told) == len(set(told)) == 6


def test_findings_have_reports(capsys, tmp_path):
    bundle = small_bundle(tmp_path / "bundle", thresholds=[0.3, 0.4, None])
    images = write_images(tmp_path / "in", 4, studies=1)
    assert predict(bundle, images, tmp_path / "out.csv", "--write_sr", tmp_path / "reports") == 0
    assert "reports 4 in " in capsys.readouterr().out
    rows = read_table((tmp_path / "out.csv").read_text())
    for row, name in zip(rows, reports_of(tmp_path / "reports"), strict=True):
        (report,) = read_classification_sr(tmp_path / "reports" / name)
        present = row["findings"].split("|")
        assert report.present == {finding: finding in present for finding in NAMES[:2]}
        assert report.probabilities == {finding: float(row[f"probability_{finding}"]) for finding in NAMES}


def test_undecided_findings_are_neither_present_nor_absent(tmp_path):
    bundle = small_bundle(tmp_path / "bundle", thresholds=[0.3, 0.4, None])
    images = write_images(tmp_path / "in", 4, studies=1)
    options = ("--write_sr", tmp_path / "reports", "--min_confidence", "0.6")
    assert predict(bundle, images, tmp_path / "out.csv", *options) == 0
    rows = read_table((tmp_path / "out.csv").read_text())
    assert any(row["undecided"] for row in rows)
    for row, name in zip(rows, reports_of(tmp_path / "reports"), strict=True):
        (report,) = read_classification_sr(tmp_path / "reports" / name)
        assert report.present.keys() == {*NAMES[:2]} - {*row["undecided"].split("|")}
        assert len(report.probabilities) == len(NAMES)
