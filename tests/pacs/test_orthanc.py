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

"""The commands against a real server, which dies in between."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from dicom_files import PATIENT, dicom_dataset, errors_of_dciodvfy
from fake_dicomweb import dicom_bytes
from prediction_models import CLASSES, OTOSCOPY, untrained_model
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from small_bundles import small_bundle

pytest.importorskip("dicomweb_client", reason="DICOMweb wants the extra 'pacs'")
pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")

import highdicom
import orthanc_server

from monai_weckd.annotation import AnnotatedBundle, AnnotatedChain, AnnotationSession
from monai_weckd.annotation.worklist import WorklistSession, read_worklist
from monai_weckd.cli.main import main
from monai_weckd.data import load_datalist, read_classification_sr, verify_images
from monai_weckd.pacs.server import DicomwebServer
from monai_weckd.utils.tables import read_table

pytestmark = pytest.mark.skipif(bool(orthanc_server.missing()), reason=orthanc_server.missing() or "it is there")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    found = orthanc_server.Orthanc(tmp_path_factory.mktemp("orthanc"))
    found.start()
    yield found
    found.kill()


@pytest.fixture
def pacs(server, monkeypatch):
    """The server, empty, with its user and password in the environment; there is little patience."""
    if server.process.poll() is not None:
        server.start()
    server.clear()
    monkeypatch.setenv("MONAI_WECKD_PACS_USER", orthanc_server.LOGIN[0])
    monkeypatch.setenv("MONAI_WECKD_PACS_PASSWORD", orthanc_server.LOGIN[1])
    monkeypatch.setattr("monai_weckd.pacs.server._WAITS", (0.01, 0.02))
    yield server
    assert list(server.folder.glob("core*")) == []


def pictures(count, *, per_series=1, patients=3, **elements):
    """Return pictures in color by their UIDs: a study and a patient for each series."""
    found, rng = {}, np.random.default_rng(0)
    for number in range(count):
        if number % per_series == 0:
            series = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        keys = {"PatientID": f"{PATIENT['PatientID']}-{number // per_series % patients}", **series, **elements}
        dataset = dicom_dataset(pixels, **keys)
        found[str(dataset.SOPInstanceUID)] = dicom_bytes(dataset)
    return found


def run(command, *options):
    return main([command, *map(str, options)])


def fetch(pacs, folder, modality="OT"):
    return run("fetch", "--url", pacs.url, "--output_dir", folder, "--modality", modality)


def fetched(folder):
    return {path.stem: path.read_bytes() for path in folder.rglob("*.dcm")}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who listens where")
def test_it_listens_on_this_machine_only(pacs):
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{pacs.port:04X}")}
    assert listening == {f"0100007F:{pacs.port:04X}"}


def test_no_access(capsys, pacs, monkeypatch, tmp_path):
    monkeypatch.setenv("MONAI_WECKD_PACS_PASSWORD", "wr0ng")
    assert fetch(pacs, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert f"{pacs.url}/series: expected access, got 401." in error
    assert "wr0ng" not in error


def test_there_and_back(capsys, pacs, monkeypatch, tmp_path):
    monkeypatch.setattr("monai_weckd.pacs.server._PAGE", 3)
    originals = pictures(7)
    compressed = dcmread(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm"))
    path = Path(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm"))
    originals[str(compressed.SOPInstanceUID)] = path.read_bytes()
    for content in originals.values():
        pacs.put(content)
    images, reports = tmp_path / "images", tmp_path / "reports"
    assert fetch(pacs, images) == 0
    assert fetched(images) == originals

    model = untrained_model(tmp_path / "output", spatial_size=[192, 192])
    options = ["--bundle", OTOSCOPY, "--ckpt", model, "--input", images, "--output", tmp_path / "out.csv"]
    assert run("predict", *options, "--write_sr", reports) == 0
    rows = read_table((tmp_path / "out.csv").read_text())
    assert [row["reason"] for row in rows] == [""] * 8
    assert run("send", "--url", pacs.url, "--input", reports) == 0
    assert run("send", "--url", pacs.url, "--input", reports) == 0
    assert len(pacs.get("instances")) == 16

    assert fetch(pacs, tmp_path / "back", "SR") == 0
    assert fetched(tmp_path / "back") == {
        str(dcmread(path).SOPInstanceUID): path.read_bytes() for path in reports.glob("*.dcm")
    }
    found = {}
    for file in (tmp_path / "back").rglob("*.dcm"):
        (report,) = read_classification_sr(file)
        found[report.images[0]] = (report.predicted, report.probabilities)
    assert found == {
        Path(row["file"]).stem: (row["predicted"], {name: float(row[f"probability_{name}"]) for name in CLASSES})
        for row in rows
    }

    # the circle closes: the reports are labels
    options = ["--dataset_dir", images, "--reports", tmp_path / "back"]
    assert run("manifest", *options, "--unverified") == 0
    datalist = verify_images(load_datalist(images, classes=CLASSES))
    labels = {Path(item["id"]).stem: CLASSES[item["label"]] for item in datalist.items}
    assert labels == {uid: predicted for uid, (predicted, _) in found.items()}
    assert len({item["group"] for item in datalist.items}) == 4
    text = "".join(capsys.readouterr())
    assert re.findall("reports (.*) refused", text) == ["8 stored, 0 there already, 0", "0 stored, 8 there already, 0"]
    text += "".join(path.read_text() for path in tmp_path.rglob("*.csv"))
    assert [word for word in (*PATIENT.values(), *orthanc_server.LOGIN[1:], "Lestrade") if word in text] == []


def series_of(pacs):
    """Return modality, number, description and the count of instances of each series, by study."""
    found = defaultdict(list)
    for key in pacs.get("series"):
        series, study = pacs.get(f"series/{key}"), pacs.get(f"series/{key}/study")
        tags = series["MainDicomTags"]
        row = tags["Modality"], int(tags["SeriesNumber"]), tags.get("SeriesDescription"), len(series["Instances"])
        found[study["MainDicomTags"]["StudyInstanceUID"]].append(row)
    return {study: sorted(rows) for study, rows in found.items()}


@pytest.mark.parametrize(("per", "count"), [("image", 3), ("study", 1)])
def test_a_run_is_one_new_series_of_a_study(pacs, tmp_path, per, count):
    for content in pictures(6, per_series=3, SeriesNumber=2).values():
        pacs.put(content)
    first, second = series_of(pacs)
    # a series that is not fetched has the first number that is free among the others
    for content in pictures(1, StudyInstanceUID=first, Modality="CT", SeriesNumber=9001).values():
        pacs.put(content)
    before = series_of(pacs)
    assert fetch(pacs, tmp_path / "images") == 0
    bundle = small_bundle(tmp_path / "bundle")
    options = ["--bundle", bundle, "--ckpt", bundle / "models" / "model.pt", "--input", tmp_path / "images"]
    for run_number in range(2):
        folder = tmp_path / f"reports{run_number}"
        output = ["--output", tmp_path / "out.csv", "--write_sr", folder, "--sr_per", per]
        assert run("predict", *options, *output) == 0
        assert run("send", "--url", pacs.url, "--input", folder) == 0
    new = {study: [row for row in rows if row not in before[study]] for study, rows in series_of(pacs).items()}
    expected = [("SR", number, "Classes by Small", count) for number in (9001, 9002, 9003)]
    assert new == {first: expected[1:], second: expected[:2]}
    # as strangers read it
    files = [path for folder in ("reports0", "reports1") for path in sorted((tmp_path / folder).glob("*.dcm"))]
    stored = pacs.contents()
    for file in files:
        assert errors_of_dciodvfy(file) == []
        dataset = dcmread(file)
        assert stored[dataset.SOPInstanceUID] == file.read_bytes()
        groups = highdicom.sr.srread(file).content.get_image_measurement_groups()
        images = [image.referenced_sop_instance_uid for group in groups for image in group.source_images]
        assert len(images) == 3 // count
        assert set(images) <= stored.keys()
        (evidence,) = dataset.CurrentRequestedProcedureEvidenceSequence
        assert evidence.StudyInstanceUID == dataset.StudyInstanceUID


def test_labels_of_a_person_come_back_as_labels(pacs, tmp_path):
    originals = pictures(4, per_series=2, SeriesNumber=9001)
    for content in originals.values():
        pacs.put(content)
    before, images = series_of(pacs), tmp_path / "images"
    assert fetch(pacs, images) == 0
    names = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.dcm"))
    given = dict(zip(names, ("ill", "well", "ill"), strict=False))
    entries = {name: {"label": label, "ts": 1} for name, label in given.items()}
    (tmp_path / "labels.json").write_text(json.dumps({"format": 1, "labels": entries}))
    options = ["--dataset_dir", images, "--labels", tmp_path / "labels.json", "--write_sr", tmp_path / "reports"]
    reader = ["--verified_by", "Doe^Jane", "--organization", "Clinic"]
    assert run("label_sr", *options, "--sr_per", "study", *reader) == 0
    assert run("send", "--url", pacs.url, "--input", tmp_path / "reports") == 0
    new = {study: [row for row in rows if row not in before[study]] for study, rows in series_of(pacs).items()}
    assert list(new.values()) == [[("SR", 9002, "Labels by people", 1)]] * 2
    assert fetch(pacs, tmp_path / "back", "SR") == 0
    assert run("manifest", "--dataset_dir", images, "--reports", tmp_path / "back") == 0
    rows = read_table((images / "manifest.csv").read_text())
    assert {row["file"]: row["label"] for row in rows if row["label"]} == given


def given_by_people(chain, images):
    """Label some images as two people do, train a stage, and return what they said."""
    session, said = AnnotationSession(chain, images), {}
    for number, key in enumerate(sorted(session.items)[:10]):
        said[key] = "cannot tell" if number == 3 else session.classes[number % 4]
        session.put_label(key, said[key], who=("Ada", "Béla")[number // 3 % 2])
    session.train()
    assert session.training.error is None
    return said


@pytest.mark.slow
def test_people_and_a_model_answer_what_was_asked(pacs, tmp_path):
    for content in pictures(15, per_series=3, patients=5, SeriesNumber=2).values():
        pacs.put(content)
    before, images = series_of(pacs), tmp_path / "images"
    assert fetch(pacs, images) == 0
    bundle = AnnotatedBundle(OTOSCOPY, images, changes={"spatial_size": [64, 64]}, cache_dir=tmp_path / "cache")
    chain = AnnotatedChain(bundle, images / ".weckd")
    given = given_by_people(chain, images)

    # two runs of the model, and what the people say, verified
    options = [
        "--bundle",
        OTOSCOPY,
        "--set",
        "spatial_size=[64,64]",
        "--ckpt",
        images / ".weckd" / "chain" / "model.pt",
    ]
    options += ["--input", images]
    for per in ("image", "study"):
        output = ["--output", tmp_path / f"{per}.csv", "--write_sr", tmp_path / per, "--sr_per", per]
        assert run("predict", *options, *output) == 0
        assert run("send", "--url", pacs.url, "--input", tmp_path / per) == 0
    people = ["--dataset_dir", images, "--labels", images / ".weckd" / "labels.json", "--write_sr", tmp_path / "people"]
    reader = ["--verified_by", "Doe^Jane", "--organization", "Clinic"]
    assert run("label_sr", *people, "--sr_per", "study", *reader) == 0
    assert run("send", "--url", pacs.url, "--input", tmp_path / "people") == 0

    stored = pacs.contents()
    for study, rows in series_of(pacs).items():
        new = [row for row in rows if row not in before[study]]
        assert len({number for _, number, *_ in new}) == len(new) <= 3
        assert sum(description == "Labels by people" for _, _, description, _ in new) <= 1
    for file in (path for part in ("image", "study", "people") for path in (tmp_path / part).glob("*.dcm")):
        assert errors_of_dciodvfy(file) == []
        assert stored[dcmread(file).SOPInstanceUID] == file.read_bytes()
        groups = highdicom.sr.srread(file).content.get_image_measurement_groups()
        assert {image.referenced_sop_instance_uid for group in groups for image in group.source_images} <= set(stored)
    # what the model left open comes back as a worklist, and what people said as labels
    assert run("predict", *options, "--output", tmp_path / "open.csv", "--min_confidence", "1") == 0
    worklist = read_worklist(tmp_path / "open.csv")
    asked = {one.id for one in WorklistSession(chain, images, worklist).next(count=20)}
    assert asked == set(worklist) - given.keys()
    assert fetch(pacs, tmp_path / "back", "SR") == 0
    assert run("manifest", "--dataset_dir", images, "--reports", tmp_path / "back") == 0
    rows = read_table((images / "manifest.csv").read_text())
    assert {row["file"]: row["label"] for row in rows if row["label"]} == {
        key: label for key, label in given.items() if label != "cannot tell"
    }


def killing(monkeypatch, pacs, name, number, *, after=False, then=lambda: None):
    """Let the server die when a method is called for the n-th time."""
    method, count = getattr(DicomwebServer, name), []

    def called(self, *args):
        count.append(args)
        due = len(count) == number
        if due and not after:
            pacs.kill()
            then()
        result = method(self, *args)
        if due and after:
            pacs.kill()
            then()
        return result

    monkeypatch.setattr(DicomwebServer, name, called)


def test_a_server_that_dies_while_series_are_fetched(capsys, pacs, monkeypatch, tmp_path):
    originals = pictures(60, per_series=20)
    for content in originals.values():
        pacs.put(content)
    out = tmp_path / "out"
    for number in (1, 10, 30):  # in the first series, in the next ones
        with monkeypatch.context() as patched:
            killing(patched, pacs, "retrieve", number)
            assert fetch(pacs, out) == 1
        assert (
            "expected an answer, got Connection refused. Check that the server runs, then repeat the command."
            in capsys.readouterr().err
        )
        assert all(len(list(folder.glob("*.dcm"))) == 20 for folder in out.iterdir() if folder.is_dir())
        pacs.start()
    assert len(pacs.get("instances")) == 60
    assert fetch(pacs, out) == 0
    assert fetched(out) == originals
    rows = read_table((out / "index.csv").read_text())
    assert [row["instances"] for row in rows] == ["20"] * 3


def test_a_server_that_comes_back_is_waited_for(pacs, monkeypatch, tmp_path):
    originals = pictures(10, per_series=10)
    for content in originals.values():
        pacs.put(content)
    monkeypatch.setattr("monai_weckd.pacs.server._WAITS", (0.1,) * 100)
    killing(monkeypatch, pacs, "retrieve", 5, then=pacs.start)
    assert fetch(pacs, tmp_path / "out") == 0
    assert fetched(tmp_path / "out") == originals


@pytest.mark.parametrize("after", [False, True])
def test_a_server_that_dies_while_reports_are_sent(pacs, monkeypatch, tmp_path, after):
    from monai_weckd.data import ClassificationSRWriter

    writer = ClassificationSRWriter(CLASSES, model="m", version="1", bundle="b")
    for number, content in enumerate(pictures(8, per_series=4).values()):
        (tmp_path / f"{number}.dcm").write_bytes(content)
        (tmp_path / "reports").mkdir(exist_ok=True)
        writer.write(tmp_path / "reports" / f"{number}.dcm", [0.1, 0.2, 0.3, 0.4], source=tmp_path / f"{number}.dcm")
    for name, number in (("_sent", 3), ("store", 5), ("_sent", 2)):
        with monkeypatch.context() as patched:
            killing(patched, pacs, name, number, after=after)
            assert run("send", "--url", pacs.url, "--input", tmp_path / "reports") == 1
        pacs.start()
    assert run("send", "--url", pacs.url, "--input", tmp_path / "reports") == 0
    expected = {str(dcmread(path).SOPInstanceUID): path.read_bytes() for path in (tmp_path / "reports").glob("*.dcm")}
    assert pacs.contents() == expected
    rows = read_table((tmp_path / "reports" / "sent.csv").read_text())
    stored = [row["instance"] for row in rows if row["outcome"] == "stored"]
    assert len(set(stored)) == len(stored)
    assert {row["instance"] for row in rows} == set(expected)
