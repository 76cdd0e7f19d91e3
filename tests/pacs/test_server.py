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
import re
import socket
import sys

import pytest
from fake_dicomweb import FakeDicomweb, _Handler, basic, image
from pydicom import dcmread
from pydicom.uid import generate_uid

pytest.importorskip("dicomweb_client", reason="DICOMweb wants the extra 'pacs'")

from monai_weckd.pacs.errors import DicomwebError, DicomwebObjectError
from monai_weckd.pacs.server import DicomwebServer, Series, is_uid

answer = _Handler._answer
FILTERS = {"Modality": "OT", "PatientName": "Doe^Jane"}


@pytest.fixture
def server(fake, waits):
    return DicomwebServer(fake.url)


def told(caught) -> str:
    """Return a message, which is one line without the name of a patient or a query."""
    text = str(caught.value)
    assert text.isprintable()
    assert "Doe" not in text
    assert "?" not in text
    return text


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "host/dicom-web",
            "url: expected http(s)://host/path, got 'host/dicom-web'. Pass where the server has DICOMweb.",
        ),
        ("ftp://host", "url: expected http(s)://host/path, got 'ftp://host'."),
        ("http://host/?a=b", "url: expected http(s)://host/path, got"),
        (
            "http://ada:s3cret@host/x",
            "url: expected no user and password in it, got some. Set MONAI_WECKD_PACS_USER and",
        ),
    ],
)
def test_urls_that_are_none_are_refused(waits, url, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        DicomwebServer(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["USER", "PASSWORD"])
def test_half_a_login_is_refused(waits, monkeypatch, name):
    monkeypatch.setenv(f"MONAI_WECKD_PACS_{name}", "s3cret")
    with pytest.raises(ValueError, match="expected both in the environment, got one") as caught:
        DicomwebServer("http://host")
    assert "s3cret" not in str(caught.value)


def test_the_library_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "dicomweb_client", None)
    message = "dicomweb_client: expected to be installed, got none. Run pip install 'monai-weckd[pacs]' or pip install"
    with pytest.raises(ImportError, match=re.escape(message)):
        DicomwebServer("http://host")


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "../1.2", "1..2", "1.2.", ".1", "1/2", "1.2\n", "1.2 ", "1.a", "\u0661.2", "1" * 65, "1.2\0"],
)
def test_other_text_is_no_uid(text):
    assert not is_uid(text)


def test_uids():
    assert is_uid("1.2.840.10008.1.2")
    assert is_uid("1." * 31 + "12")
    assert is_uid(generate_uid())


@pytest.mark.parametrize(("most", "requests"), [(None, 4), (3, 9)])
def test_pages_go_on_until_nothing_is_new(monkeypatch, fake, server, most, requests):
    monkeypatch.setattr("monai_weckd.pacs.server._PAGE", 10)
    fake.fill(series=23, instances=1)
    fake.most = most  # a server's own limit makes pages shorter than asked for
    found = list(server.series({}))
    assert {(series.study, series.uid) for series in found} == {key[:2] for key in fake.objects}
    assert len(found) == 23
    assert len(fake.requests) == requests


def test_filters_are_sent(fake, server):
    list(server.series({"Modality": "OT", "StudyDate": "20200101-20201231"}))
    assert fake.requests == ["/dicom-web/series?Modality=OT&StudyDate=20200101-20201231&limit=500&offset=0"]


def test_a_server_without_offset_is_asked_twice_at_most(monkeypatch, fake, server):
    monkeypatch.setattr("monai_weckd.pacs.server._PAGE", 10)
    fake.knows_offset = False
    fake.fill(series=9, instances=1)
    assert len(list(server.series({}))) == 9
    assert len(fake.requests) == 2
    fake.fill(series=9, instances=1)
    with pytest.raises(DicomwebError, match="expected further results after 10, got the same ones: the server does"):
        list(server.series({}))
    assert len(fake.requests) == 4


def test_a_series_that_is_given_twice_is_one(fake, server):
    fake.fill(series=1, instances=3)
    rows = fake.results("/dicom-web/series", {})
    fake.results = lambda path, query: rows * 2
    assert len(list(server.series({}))) == 1


@pytest.mark.parametrize("answer", [b"5", b'"text"', b"null"])
def test_other_json_is_told(fake, server, answer):
    fake.faults = {"series": [answer]}
    with pytest.raises(DicomwebError, match="/series: expected a list of results, got other JSON"):
        list(server.series({}))


@pytest.mark.parametrize("answer", [b'["text", 1, null]', b'[{"0020000E": {}}]', b'{"0020000D": {"Value": []}}'])
def test_results_without_uids_are_no_series(fake, server, answer):
    fake.faults = {"series": [answer]}
    (series,) = server.series({})
    with pytest.raises(DicomwebObjectError, match="/series: expected UIDs of a series and its study, got other text"):
        server.instances(series)


def test_an_answer_that_is_no_json_is_told(fake, server, waits):
    fake.faults = {"series": [b"<html>Doe^Jane"]}
    with pytest.raises(DicomwebError, match="expected an answer, got JSONDecodeError") as caught:
        list(server.series(FILTERS))
    told(caught)
    assert waits == []


@pytest.mark.parametrize("faults", [[503], [503, 500, 429, 408]])
def test_what_fails_for_the_moment_is_asked_again(fake, server, waits, faults):
    fake.fill()
    fake.faults = {"series": list(faults)}
    assert len(list(server.series({}))) == 2
    assert waits == [1, 2, 4, 8][: len(faults)]


def test_what_fails_again_and_again_is_told(fake, server, waits):
    fake.faults = {"series": [503] * 9}
    message = f"{fake.url}/series: expected an answer, got 503 repeatedly. Run the command again later."
    with pytest.raises(DicomwebError, match=re.escape(message)) as caught:
        list(server.series(FILTERS))
    told(caught)
    assert waits == [1, 2, 4, 8]
    assert len(fake.requests) == 5


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (
            401,
            DicomwebError,
            "expected access, got 401. Set MONAI_WECKD_PACS_USER and MONAI_WECKD_PACS_PASSWORD, or use",
        ),
        (403, DicomwebError, "expected access, got 403."),
        (404, DicomwebObjectError, "expected an answer, got 404. Look at the URL."),
        (400, DicomwebObjectError, "expected an answer, got 400. Look at the URL."),
    ],
)
def test_other_refusals_are_told_at_once(fake, server, waits, status, kind, message):
    fake.faults = {"series": [status] * 2}
    with pytest.raises(kind, match=re.escape(f"{fake.url}/series: {message}")) as caught:
        list(server.series(FILTERS))
    told(caught)
    assert waits == []
    assert len(fake.requests) == 1


def test_nobody_there_is_told(waits):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(
        DicomwebError, match=f"{url}/series: expected an answer, got Connection refused. Check"
    ) as caught:
        list(DicomwebServer(url).series(FILTERS))
    told(caught)
    assert waits == [1, 2, 4, 8]


@pytest.mark.parametrize("way", ["environment", "netrc"])
def test_logins(fake, waits, monkeypatch, tmp_path, way):
    fake.fill()
    fake.login = basic("ada", "s3cr\u20act")
    if way == "environment":
        monkeypatch.setenv("MONAI_WECKD_PACS_USER", "ada")
        monkeypatch.setenv("MONAI_WECKD_PACS_PASSWORD", "s3cr\u20act")
    else:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password s3cret\n")
        fake.login = basic("ada", "s3cret")
        (tmp_path / "netrc").chmod(0o600)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert len(list(DicomwebServer(fake.url).series({}))) == 2


def one(fake):
    fake.fill(series=1, instances=1)
    ((*series, uid), content) = next(iter(fake.objects.items()))
    return Series(*series), uid, content


def retrieve(server, series, uid, path):
    server.retrieve(series, uid, path)
    server.check(series, uid, path)


@pytest.mark.parametrize("faults", [[], [503], ["drop"], ["open"], ["drop", 500, "open", "drop"]])
def test_an_instance_is_written_byte_for_byte(fake, server, waits, tmp_path, faults):
    series, uid, content = one(fake)
    fake.faults = {uid: list(faults)}
    retrieve(server, series, uid, tmp_path / "a.dcm")
    assert (tmp_path / "a.dcm").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["a.dcm"]
    assert len(waits) == len(faults)


@pytest.mark.parametrize(
    ("faults", "kind", "message"),
    [
        ([404], DicomwebObjectError, "expected an answer, got 404. Look at the URL."),
        (["html"], DicomwebObjectError, "expected multipart/related with a boundary, got another type."),
        (["junk"], ValueError, "expected a DICOM file, got one without the 'DICM' prefix."),
        (
            ["open"] * 5,
            DicomwebError,
            "expected an answer, got a truncated one. Check that the server runs, then repeat the command.",
        ),
        (["drop"] * 5, DicomwebError, "expected an answer, got "),
    ],
)
def test_what_is_no_instance_is_told(fake, server, tmp_path, faults, kind, message):
    series, uid, _ = one(fake)
    fake.faults = {uid: faults}
    place = f"{fake.url}/studies/{series.study}/series/{series.uid}/instances/{uid}: "
    with pytest.raises(kind, match=re.escape(place + message)) as caught:
        retrieve(server, series, uid, tmp_path / "a.dcm")
    told(caught)


def test_another_instance_is_refused(fake, server, tmp_path):
    series, uid, _ = one(fake)
    fake.objects[(*series, uid)] = image(*series)[1]
    with pytest.raises(DicomwebObjectError, match="expected the instance that was asked for, got another"):
        retrieve(server, series, uid, tmp_path / "a.dcm")


def test_no_room_is_told(fake, server, tmp_path):
    series, uid, _ = one(fake)
    path = tmp_path / "none" / "a.dcm"
    with pytest.raises(OSError, match=re.escape(f"{path}: expected a file that can be written, got 'No such file")):
        server.retrieve(series, uid, path)
    assert len(fake.requests) == 1


def dataset(fake):
    return dcmread(io.BytesIO(image(str(generate_uid()), str(generate_uid()))[1]))


@pytest.mark.parametrize(("faults", "posts"), [([], 1), ([503, 503], 3), (["drop"], 1), (["html"], 1)])
def test_an_object_is_stored_once(fake, server, faults, posts):
    sent = dataset(fake)
    fake.faults = {"POST": faults}
    assert server.store(sent) == "stored"
    assert server.store(sent) == "there already"
    assert sum(request.startswith("POST") for request in fake.requests) == posts
    assert [key[2] for key in fake.objects] == [sent.SOPInstanceUID]


@pytest.mark.parametrize(("fault", "message"), [(None, "got 409, failure reason A900."), (413, "got 413. Look at")])
def test_an_object_that_is_refused_is_told(fake, server, waits, fault, message):
    sent = dataset(fake)
    fake.refuses = {sent.SOPInstanceUID: 0xA900}
    fake.faults = {"POST": [fault] if fault else []}
    place = f"{fake.url}/studies/{sent.StudyInstanceUID}: expected an answer, "
    with pytest.raises(DicomwebObjectError, match=re.escape(place + message)) as caught:
        server.store(sent)
    told(caught)
    assert waits == []


def test_a_refusal_within_an_answer_is_told(fake, server, monkeypatch):
    sent = dataset(fake)
    fake.refuses = {sent.SOPInstanceUID: 0x0122}
    monkeypatch.setattr("fake_dicomweb._Handler._answer", lambda self, status, *rest: answer(self, 200, *rest))
    with pytest.raises(DicomwebObjectError, match="expected to be stored, got failure reason 0122"):
        server.store(sent)


def test_no_word_of_an_object_is_told(fake, server):
    sent = dataset(fake)
    fake.results = lambda path, query: []
    fake.faults = {"POST": ["html"]}
    with pytest.raises(DicomwebObjectError, match="expected to be stored, got no confirmation"):
        server.store(sent)


def _redirects(monkeypatch, *, status, location):
    """Make the server answer each request with a redirect."""

    def send_on(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.fake.requests.append(self.command)
        self.send_response(status)
        self.send_header("Location", location(self))
        self.send_header("Content-Length", "0")
        self.end_headers()

    monkeypatch.setattr(_Handler, "do_GET", send_on)
    monkeypatch.setattr(_Handler, "do_POST", send_on)


@pytest.fixture
def other():
    """Another server, which writes down who asks it."""
    server = FakeDicomweb()
    yield server
    server.close()


REQUESTS = {
    "series": lambda server, path: list(server.series(FILTERS)),
    "instances": lambda server, path: server.instances(Series("1.2", "1.3")),
    "retrieve": lambda server, path: server.retrieve(Series("1.2", "1.3"), "1.4", path),
    "has": lambda server, path: server.has("1.2", "1.4"),
    "post": lambda server, path: server._sent(dcmread(io.BytesIO(image("1.2", "1.3", PatientName="Doe^Jane")[1]))),
}


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_other_host_is_asked(fake, other, server, tmp_path, monkeypatch, request_, status):
    port = other.server.server_address[1]
    for number, place in enumerate((f"http://127.0.0.1:{port}", f"//127.0.0.1:{port}", f"http://localhost:{port}")):
        _redirects(monkeypatch, status=status, location=lambda handler, place=place: place + handler.path)
        with pytest.raises(DicomwebError, match="got a redirect to another host or port") as caught:
            REQUESTS[request_](server, tmp_path / f"{number}")
        assert str(port) not in told(caught)
    assert other.requests == []
    assert len(fake.requests) == 3


@pytest.mark.parametrize("scheme", ["https", "ftp", "file"])
def test_another_scheme_is_another_origin(fake, server, monkeypatch, scheme):
    _redirects(monkeypatch, status=302, location=lambda handler: f"{scheme}://{handler.headers['Host']}{handler.path}")
    with pytest.raises(DicomwebError, match="got a redirect to another host or port"):
        server.has("1.2", "1.4")


def test_a_second_redirect_is_looked_at_as_well(fake, other, server, monkeypatch):
    away = f"http://127.0.0.1:{other.server.server_address[1]}/x"
    _redirects(monkeypatch, status=302, location=lambda handler: away if "moved" in handler.path else "/moved")
    with pytest.raises(DicomwebError, match="got a redirect to another host or port"):
        server.has("1.2", "1.4")
    assert (len(fake.requests), other.requests) == (2, [])


def test_a_redirect_within_the_server_is_followed(fake, server, monkeypatch):
    fake.fill(series=1, instances=1)
    get = _Handler.do_GET

    def moved(self):
        if self.path.startswith("/old"):
            self.path = self.path.removeprefix("/old")
            get(self)
        else:
            self.send_response(307)
            self.send_header("Location", f"/old{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()

    monkeypatch.setattr(_Handler, "do_GET", moved)
    assert len(list(server.series(FILTERS))) == 1
