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
import re

import pytest
from dicom_files import PATIENT
from fake_dicomweb import image
from pydicom.uid import generate_uid

pytest.importorskip("dicomweb_client", reason="DICOMweb wants the extra 'pacs'")

from monai_weckd.cli.main import main
from monai_weckd.data.dicom.patients import patient_groups
from monai_weckd.pacs.fetch import series_folder
from monai_weckd.pacs.server import DicomwebServer


def fetch(fake, folder, *options):
    return main(["fetch", "--url", fake.url, "--output_dir", str(folder), "--modality", "OT", *options])


def index(folder):
    with (folder / "index.csv").open(newline="") as file:
        return {row["series"]: row for row in csv.DictReader(file)}


def assert_same(fake, folder):
    """Assert that a folder has what the server has, and no more."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.dcm")}
    assert found == {f"{series}/{uid}.dcm": content for (_, series, uid), content in fake.objects.items()}
    rows = index(folder)
    assert set(rows) == {series for _, series, _ in fake.objects}
    for series, row in rows.items():
        own = {uid: content for (_, one, uid), content in fake.objects.items() if one == series}
        lines = "".join(f"{uid} {hashlib.sha256(own[uid]).hexdigest()}\n" for uid in sorted(own))
        assert row["digest"] == hashlib.sha256(lines.encode()).hexdigest()
        assert (int(row["instances"]), int(row["bytes"])) == (len(own), sum(map(len, own.values())))
    assert not folder.with_name(folder.name + ".part").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "filter: expected at least one, got none. Pass --modality, --study_date or --filter."),
        (["--study_date", "2020"], "study_date: expected YYYYMMDD or a range with -, got '2020'. Correct it."),
        (["--filter", "Modalty=OT"], "filter: expected a DICOM keyword, got 'Modalty'. Did you mean 'Modality'?"),
        (["--filter", "@#"], "filter: expected a DICOM keyword, got '@#'. Look it up in the DICOM standard."),
        (["--filter", "Modality"], "filter: expected KEYWORD=VALUE, got 'Modality'. Write for example BodyPart"),
        (
            ["--modality", "OT", "--output_dir", "/"],
            "output_dir: expected a folder in a file system, got /, the root of",
        ),
    ],
)
def test_arguments_are_checked(capsys, fake, waits, tmp_path, options, message):
    command = ["fetch", "--url", fake.url, "--output_dir", str(tmp_path / "out"), *options]
    assert main(command) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert fake.requests == []
    assert list(tmp_path.iterdir()) == []


def test_all_filters_are_sent(capsys, fake, waits, tmp_path):
    options = ["--study_date", "20200101-", "--filter", "BodyPartExamined=BRAIN", "--filter", "StudyID=a=b c"]
    assert fetch(fake, tmp_path / "out", *options) == 1
    query = "BodyPartExamined=BRAIN&Modality=OT&StudyDate=20200101-&StudyID=a%3Db+c&limit=500&offset=0"
    assert fake.requests == [f"/dicom-web/series?{query}"]
    assert capsys.readouterr().err == f"error: {fake.url}: expected series that match, got none. Look at the filters.\n"


def test_series_are_fetched_byte_for_byte(capsys, fake, waits, tmp_path):
    fake.fill(series=3, instances=2)
    assert fetch(fake, tmp_path / "new" / "out") == 0
    assert_same(fake, tmp_path / "new" / "out")
    out, err = capsys.readouterr()
    assert out == f"series  3 fetched, 0 there already, 0 bad\nfiles   6 fetched into {tmp_path / 'new' / 'out'}\n"
    assert err == ""


def test_what_is_whole_is_not_fetched_again(capsys, fake, waits, tmp_path):
    fake.fill(series=3, instances=2)
    fetch(fake, tmp_path / "out")
    fake.requests.clear()
    before = (tmp_path / "out" / "index.csv").stat().st_mtime_ns
    assert fetch(fake, tmp_path / "out") == 0
    assert (tmp_path / "out" / "index.csv").stat().st_mtime_ns == before
    assert "series  0 fetched, 3 there already, 0 bad\n" in capsys.readouterr().out
    assert all("/instances?" in request or "/series?" in request for request in fake.requests)
    # of a series that has grown, what is new
    key = next(iter(fake.objects))
    uid, content = image(*key[:2])
    fake.objects[(*key[:2], uid)] = content
    fake.requests.clear()
    assert fetch(fake, tmp_path / "out") == 0
    assert [request for request in fake.requests if "?" not in request] == [
        f"/dicom-web/studies/{key[0]}/series/{key[1]}/instances/{uid}"
    ]
    assert_same(fake, tmp_path / "out")


@pytest.mark.parametrize("damage", ["cut", "removed", "unlisted", "empty folder", "no folder"])
def test_what_was_damaged_is_fetched_again(fake, waits, tmp_path, damage):
    fake.fill(series=2, instances=3)
    out = tmp_path / "out"
    fetch(fake, out)
    file = next(out.rglob("*.dcm"))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "removed":
        file.unlink()
    elif damage == "unlisted":
        (out / "index.csv").write_bytes((out / "index.csv").read_bytes()[:-10])
    else:
        for path in file.parent.iterdir():
            path.unlink()
        if damage == "no folder":
            file.parent.rmdir()
    assert fetch(fake, out) == 0
    assert_same(fake, out)


def test_an_interrupted_series_is_not_there(fake, waits, tmp_path, capsys):
    fake.fill(series=1, instances=5)
    out = tmp_path / "out"
    uids = [uid for *_, uid in fake.objects]
    fake.faults = {uids[3]: [503] * 5}
    assert fetch(fake, out) == 1
    assert "expected an answer, got 503 repeatedly" in capsys.readouterr().err
    assert list(out.rglob("*.dcm")) == []
    assert len(list((tmp_path / "out.part").rglob("*.dcm"))) == 3
    fake.requests.clear()
    assert fetch(fake, out) == 0
    assert_same(fake, out)
    assert {request.rpartition("/")[2] for request in fake.requests if "?" not in request} == set(uids[3:])


@pytest.mark.parametrize("fault", [404, "junk", "html"])
def test_a_bad_series_stops_no_other(capsys, fake, waits, tmp_path, fault):
    fake.fill(series=3, instances=2)
    bad = list(fake.objects)[2]
    fake.faults = {bad[2]: [fault]}
    assert fetch(fake, tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert f"bad     {fake.url}/studies/{bad[0]}/series/{bad[1]}/instances/{bad[2]}: expected " in out
    assert "series  2 fetched, 0 there already, 1 bad\n" in out
    assert err == f"error: {fake.url}: expected all series, got 1 that cannot be fetched.\n"
    assert set(index(tmp_path / "out")) == {series for _, series, _ in fake.objects} - {bad[1]}
    assert fetch(fake, tmp_path / "out") == 0
    assert_same(fake, tmp_path / "out")


@pytest.mark.parametrize("hostile", ["../../evil", "..", "/etc/evil", "1.2/../../evil", "1.2\0", "1" * 65, "x"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_hostile_uids_stay_outside_of_paths(capsys, fake, waits, tmp_path, hostile, place):
    fake.fill(series=1, instances=1)
    keys = [generate_uid(), generate_uid(), generate_uid()]
    keys[place] = hostile
    fake.objects[tuple(keys)] = b"evil"
    fake.results = lambda path, query, results=fake.results: (
        all_of(fake)
        if path.endswith("/series")
        else [{"00080018": {"Value": [keys[2]]}}]
        if keys[1] in path
        else results(path, query)
    )
    assert fetch(fake, tmp_path / "a" / "b" / "out") == 1
    assert "series  1 fetched, 0 there already, 1 bad\n" in capsys.readouterr().out
    assert [path for path in tmp_path.rglob("*") if "evil" in path.name or path.name == hostile] == []
    assert len(list(tmp_path.rglob("*.dcm"))) == 1
    assert all("evil" not in request for request in fake.requests)


def all_of(fake):
    return [{"0020000D": {"Value": [study]}, "0020000E": {"Value": [series]}} for study, series, _ in fake.objects]


def test_the_group_is_the_patient(fake, waits, tmp_path):
    one = fake.fill(series=2, instances=1, PatientID="1", IssuerOfPatientID="here")
    fake.fill(series=1, instances=1, PatientID="2")
    fake.fill(series=1, instances=1, PatientID="1", IssuerOfPatientID="elsewhere")
    unnamed = fake.fill(series=2, instances=1, PatientID="")
    out = tmp_path / "out"
    fetch(fake, out)
    groups = {series: row["group"] for series, row in index(out).items()}
    by_study = {study: {groups[key[1]] for key in fake.objects if key[0] == study} for study, *_ in fake.objects}
    assert all(len(found) == 1 for found in by_study.values())
    assert len({*groups.values()}) == 4
    # a new series of a known patient, in another study, finds the group in another run
    again = fake.fill(series=1, instances=1, PatientID="1", IssuerOfPatientID="here")
    fake.fill(series=1, instances=1, PatientID="")
    fetch(fake, out)
    groups = {series: row["group"] for series, row in index(out).items()}
    (new,) = (groups[key[1]] for key in fake.objects if key[0] == again)
    assert by_study[one] == {new}
    # the same names as in all other commands
    assert patient_groups({series: str(out / series) for series in groups}, where="out") == groups
    assert len({*groups.values()}) == 5
    assert unnamed != one


HALVES = {
    "number": [{"PatientID": ""}, {"PatientID": "1"}],
    "number later": [{"PatientID": "1"}, {"PatientID": ""}],
    "issuer": [{"PatientID": "1"}, {"PatientID": "1", "IssuerOfPatientID": "here"}],
    "issuer later": [{"PatientID": "1", "IssuerOfPatientID": "here"}, {"PatientID": "1"}],
    "both": [{"PatientID": ""}, {"PatientID": "1"}, {"PatientID": "1", "IssuerOfPatientID": "here"}],
}


@pytest.mark.parametrize("runs", ["one run", "a run each"])
@pytest.mark.parametrize("headers", HALVES.values(), ids=HALVES)
def test_series_of_which_some_tell_half_of_the_patient_are_one_group(capsys, fake, waits, tmp_path, headers, runs):
    out = tmp_path / "out"
    study = fake.fill(series=1, instances=1, PatientID="another")
    fetch(fake, out)
    for number, elements in enumerate(headers):
        # series of one study, in which each has its own header
        fake.fill(series=1, instances=1, study="1.2.3", **elements)
        if runs != "one run" or number + 1 == len(headers):
            fetch(fake, out)
    groups = {series: row["group"] for series, row in index(out).items()}
    (other,) = (groups[key[1]] for key in fake.objects if key[0] == study)
    assert sorted(map(list(groups.values()).count, {*groups.values()})) == [1, len(headers)]
    assert list(groups.values()).count(other) == 1
    assert f"{len(headers) - 1} series joined" in capsys.readouterr().out or runs != "one run"
    before = (out / "index.csv").read_bytes()
    fetch(fake, out)
    assert (out / "index.csv").read_bytes() == before
    assert "joined" not in capsys.readouterr().out.rpartition("series ")[2]


def test_series_that_may_be_of_two_patients_stay_apart(fake, waits, tmp_path):
    for elements in ({"PatientID": "1"}, {"PatientID": "2"}, {"PatientID": ""}):
        fake.fill(series=1, instances=1, study="1.2.3", **elements)
    fetch(fake, tmp_path / "out")
    assert len({row["group"] for row in index(tmp_path / "out").values()}) == 3


def test_no_patient_is_in_what_is_written_besides_the_images(capsys, fake, waits, tmp_path):
    fake.fill(series=2, instances=2)
    fake.faults = {"instances/": [404]}
    fetch(fake, tmp_path / "out", "--filter", "PatientName=Doe*")
    text = "".join(capsys.readouterr())
    paths = list(tmp_path.rglob("*"))
    text += "".join(path.read_text() for path in paths if path.is_file() and path.suffix not in (".dcm", ".part"))
    text += "".join(map(str, paths))
    assert "1 bad" in text
    assert [value for value in (*PATIENT.values(), "Doe") if value in text] == []


def test_two_fetches_do_not_meet(fake, waits, tmp_path, capsys):
    with series_folder(DicomwebServer(fake.url), tmp_path / "out"):
        assert fetch(fake, tmp_path / "out") == 1
    message = f"output_dir: expected one fetch at a time into {tmp_path / 'out'}, got another. Wait for it."
    assert capsys.readouterr().err == f"error: {message}\n"


def test_an_interruption_is_told(fake, waits, tmp_path, capsys, monkeypatch):
    fake.fill(series=3, instances=1)
    retrieve, count = DicomwebServer.retrieve, []

    def interrupted(self, *args):
        count.append(args)
        if len(count) == 3:
            raise KeyboardInterrupt
        return retrieve(self, *args)

    monkeypatch.setattr(DicomwebServer, "retrieve", interrupted)
    assert fetch(fake, tmp_path / "out") == 1
    assert capsys.readouterr().err == "error: stopped after 2 series; run it again to go on\n"
    assert fetch(fake, tmp_path / "out") == 0
    assert_same(fake, tmp_path / "out")


@pytest.mark.parametrize("number", range(7))
def test_a_process_that_dies_loses_no_series(fake, waits, tmp_path, number):
    """Die before each rename: of an instance, of a series, of the index."""
    fake.fill(series=2, instances=2)
    out = tmp_path / "out"
    pid = os.fork()
    if pid == 0:
        left, replace, rename = [number], os.replace, os.rename

        def due(do):
            def renamed(*args):
                if left[0] == 0:
                    os.kill(os.getpid(), 9)
                left[0] -= 1
                do(*args)

            return renamed

        os.replace, os.rename = due(replace), due(rename)
        fetch(fake, out)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    series = list(dict.fromkeys(key[1] for key in fake.objects))
    whole = [path.name for path in out.iterdir() if re.fullmatch("[0-9.]+", path.name)]
    assert whole == series[: len(whole)]
    assert all(len(list((out / uid).iterdir())) == 2 for uid in whole)
    fake.requests.clear()
    assert fetch(fake, out) == 0
    assert_same(fake, out)
    assert sum("?" not in request for request in fake.requests) == 4 - [0, 1, 2, 2, 2, 3, 4][number]
