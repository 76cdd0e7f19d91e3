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

import csv
import hashlib
import os
import warnings

import numpy as np
import pytest
from dicom_files import PATIENT, write_dicom
from fake_dicomweb import FakeDicomweb, basic
from pydicom import dcmread
from pydicom.uid import generate_uid

pytest.importorskip("dicomweb_client", reason="DICOMweb wants the extra 'pacs'")
pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")

from monai_weckd.cli.main import main
from monai_weckd.data import ClassificationSRWriter
from monai_weckd.data.dicom.sr_folder import DocumentFolder
from monai_weckd.pacs.server import DicomwebServer


@pytest.fixture
def reports(tmp_path):
    """A folder of three reports, the study of which is one."""
    folder, images = tmp_path / "reports", tmp_path / "images"
    images.mkdir()
    writer, study = ClassificationSRWriter(["ill", "well"], model="m", version="1", bundle="b"), generate_uid()
    documents = DocumentFolder(folder)
    for number in range(3):
        picture = np.full((8, 8), number, dtype=np.uint8)
        source = write_dicom(images / f"{number}.dcm", picture, StudyInstanceUID=study)
        assert documents.add(writer, [0.25, 0.75], source=source, number=number + 1) == ""
    return folder


def send(fake, path):
    return main(["send", "--url", fake.url, "--input", str(path)])


def ledger(folder):
    with (folder / "sent.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def uid_of(path):
    return str(dcmread(path).SOPInstanceUID)


def posts(fake):
    return sum(request.startswith("POST") for request in fake.requests)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none", "input: expected a file or folder, got nothing at"),
        (lambda folder: folder.parent / "empty", "input: expected structured reports below"),
        (
            lambda folder: folder.parent / "images",
            "expected a structured report with valid UIDs, got another. Leave it",
        ),
        (lambda folder: folder.parent / "twice", "expected a distinct UID, got that of"),
        (lambda folder: folder.parent / "text.dcm", "expected a DICOM file, got one without the 'DICM' prefix."),
    ],
)
def test_what_is_not_to_be_sent_stops_before_anything_is(capsys, fake, waits, reports, make, message):
    (reports.parent / "empty").mkdir()
    (reports.parent / "twice").mkdir()
    (reports.parent / "text.dcm").write_text("text")
    for name in ("a.dcm", "b.dcm"):
        (reports.parent / "twice" / name).write_bytes((reports / "000001.dcm").read_bytes())
    assert send(fake, make(reports)) == 1
    assert message in capsys.readouterr().err
    assert fake.requests == []


def test_reports_are_stored_and_written_down(capsys, fake, waits, reports):
    assert send(fake, reports) == 0
    assert capsys.readouterr().out == (
        f"reports 3 stored, 0 there already, 0 refused\nledger  {reports / 'sent.csv'}\n"
    )
    files = sorted(reports.glob("*.dcm"))
    contents = {key[2]: content for key, content in fake.objects.items()}
    assert contents == {uid_of(path): path.read_bytes() for path in files}
    rows = ledger(reports)
    assert [(row["file"], row["instance"], row["outcome"]) for row in rows] == [
        (path.name, uid_of(path), "stored") for path in files
    ]
    assert [row["digest"] for row in rows] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert {row["url"] for row in rows} == {fake.url}
    # again: nothing is stored twice, and the ledger tells
    assert send(fake, reports) == 0
    assert "reports 0 stored, 3 there already, 0 refused\n" in capsys.readouterr().out
    assert posts(fake) == 3
    assert [row["outcome"] for row in ledger(reports)] == ["stored"] * 3 + ["there already"] * 3
    # one alone, whose ledger is beside it
    assert send(fake, files[0]) == 0
    assert len(ledger(reports)) == 7


def test_a_server_that_has_lost_a_report_gets_it_again(fake, waits, reports):
    send(fake, reports)
    fake.objects.popitem()
    assert send(fake, reports) == 0
    assert len(fake.objects) == 3
    assert posts(fake) == 4


def test_a_refused_report_stops_no_other(capsys, fake, waits, reports):
    uid = uid_of(reports / "000002.dcm")
    fake.refuses = {uid: 0xA900}
    assert send(fake, reports) == 1
    out, err = capsys.readouterr()
    assert "bad     000002.dcm: " in out
    assert "expected an answer, got 409, failure reason A900." in out
    assert "reports 2 stored, 0 there already, 1 refused\n" in out
    assert err == f"error: {fake.url}: expected to store all reports, got 1 refused. See {reports / 'sent.csv'}.\n"
    row = ledger(reports)[1]
    assert (row["instance"], row["outcome"]) == (uid, "refused")
    assert "failure reason A900" in row["reason"]


def test_a_server_that_fails_in_between_is_told(capsys, fake, waits, reports):
    fake.faults = {"POST": [503] * 5}
    assert send(fake, reports) == 1
    assert "expected an answer, got 503 repeatedly" in capsys.readouterr().err
    assert not (reports / "sent.csv").exists()
    assert send(fake, reports) == 0
    assert len(fake.objects) == 3


@pytest.mark.parametrize("login", [None, "wrong"])
def test_no_access_is_told_without_the_password(capsys, fake, waits, reports, monkeypatch, login):
    fake.login = basic("ada", "s3cret")
    if login:
        monkeypatch.setenv("MONAI_WECKD_PACS_USER", "ada")
        monkeypatch.setenv("MONAI_WECKD_PACS_PASSWORD", "wr0ng")
    assert send(fake, reports) == 1
    text = "".join(capsys.readouterr())
    assert "expected access, got 401. Set MONAI_WECKD_PACS_USER and MONAI_WECKD_PACS_PASSWORD" in text
    assert [word for word in ("s3cret", "wr0ng", "ada:", *PATIENT.values()) if word in text] == []


def test_no_patient_is_in_the_ledger(capsys, fake, waits, reports):
    fake.refuses = {uid_of(reports / "000002.dcm"): 0x0110}
    send(fake, reports)
    text = "".join(capsys.readouterr()) + (reports / "sent.csv").read_text()
    assert [value for value in PATIENT.values() if value in text] == []


def test_a_header_is_not_quoted(fake, waits, reports):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = reports / "000002.dcm"
        dataset = dcmread(path)
        dataset.SpecificCharacterSet = "Doe^Jane"
        dataset.save_as(path)
        assert send(fake, reports) == 0
    assert [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)] == []
    assert len(fake.objects) == 3


def test_an_interruption_is_told(capsys, fake, waits, reports, monkeypatch):
    store, count = DicomwebServer.store, []

    def interrupted(self, dataset):
        count.append(dataset)
        if len(count) == 3:
            raise KeyboardInterrupt
        return store(self, dataset)

    monkeypatch.setattr(DicomwebServer, "store", interrupted)
    assert send(fake, reports) == 1
    assert capsys.readouterr().err == "error: stopped after 2 reports; run it again to go on\n"
    assert len(ledger(reports)) == 2


def test_a_process_that_dies_stores_nothing_twice(fake, waits, reports):
    pid = os.fork()
    if pid == 0:  # die when the second report is stored, and not yet written down
        store, count = DicomwebServer.store, []

        def dying(self, dataset):
            outcome = store(self, dataset)
            count.append(outcome)
            if len(count) == 2:
                os.kill(os.getpid(), 9)
            return outcome

        DicomwebServer.store = dying
        send(fake, reports)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    assert [row["outcome"] for row in ledger(reports)] == ["stored"]
    assert send(fake, reports) == 0
    assert [row["outcome"] for row in ledger(reports)] == ["stored", "there already", "there already", "stored"]
    assert posts(fake) == 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_report_goes_to_no_other_host(capsys, fake, waits, reports, monkeypatch, status):
    other = FakeDicomweb()

    def send_on(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(status)
        self.send_header("Location", f"{other.url}{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    monkeypatch.setattr(fake.server.RequestHandlerClass, "do_POST", send_on)
    assert send(fake, reports) == 1
    other.close()
    assert "got a redirect to another host or port" in capsys.readouterr().err
    assert other.requests == []
