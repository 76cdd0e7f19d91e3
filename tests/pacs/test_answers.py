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

"""A server whose answers have no end, no size or no speed."""

from __future__ import annotations

import gzip
import json
from threading import Event

import pytest
from fake_dicomweb import BOUNDARY, FakeDicomweb, _Handler
from pydicom.uid import generate_uid

from monai_weckd.cli.main import main
from monai_weckd.pacs.errors import DicomwebError, DicomwebObjectError
from monai_weckd.pacs.server import DicomwebServer, Series

BUDGET = 2**23
ASKED = Series("1.2", "1.3")
REQUESTS = {
    "series": lambda server, path: list(server.series({})),
    "instances": lambda server, path: server.instances(ASKED),
    "has": lambda server, path: server.has("1.2", "1.4"),
    "retrieve": lambda server, path: server.retrieve(ASKED, "1.4", path),
}
HEAD = b"--" + BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n"
RELATED = f'multipart/related; type="application/dicom"; boundary={BOUNDARY.decode()}'


@pytest.fixture
def server(fake: FakeDicomweb, waits, monkeypatch):
    monkeypatch.setenv("MONAI_WECKD_MEMORY", str(BUDGET))
    return DicomwebServer(fake.url)


def answers(monkeypatch, pieces, *, wait=0.0, **headers):
    """Let the server answer with these pieces, one at a time."""

    def answer(self):
        self.send_response(200)
        self.send_header("Content-Type", RELATED if "/instances/" in self.path else "application/dicom+json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.close_connection = True
        try:
            for piece in pieces():
                self.wfile.write(piece)
                Event().wait(wait)  # the sleep of the module time is another here
        except OSError:
            pass  # who asked has gone

    monkeypatch.setattr(_Handler, "do_GET", answer)


def endless():
    yield HEAD
    while True:
        yield bytes(2**16)


def chunks():
    for piece in endless():
        yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


def packed():
    bomb = gzip.compress(HEAD + bytes(2**26))
    assert len(bomb) < 2**17
    yield bomb


def packed_name():
    """A gzip header with a name that does not end: nothing is ever unpacked of it."""
    yield b"\x1f\x8b\x08\x08" + bytes(6)
    while True:
        yield b"x" * 9


SIZES = {
    "endless": (endless, {}),
    "chunks": (chunks, {"Transfer_Encoding": "chunked"}),
    "claimed": (endless, {"Content_Length": str(2**40)}),
    "gzip": (packed, {"Content_Encoding": "gzip"}),
    "GZIP": (packed, {"Content_Encoding": "x-GZIP "}),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("request_", REQUESTS)
def test_an_answer_of_any_size_is_refused(server, monkeypatch, tmp_path, size, request_):
    answers(monkeypatch, SIZES[size][0], **SIZES[size][1])
    with pytest.raises(
        (DicomwebError, DicomwebObjectError), match=r"expected an answer of at most [\d,]+ bytes"
    ) as error:
        REQUESTS[request_](server, tmp_path / "a")
    assert str(error.value).startswith(server.url)
    assert (tmp_path / "a").stat().st_size <= BUDGET if request_ == "retrieve" else not (tmp_path / "a").exists()


def few():
    return ((HEAD + bytes(2**16))[k : k + 9] for k in range(0, 2**16, 9))


SLOW = {
    "without a length": (few, {}),
    "with a length": (few, {"Content_Length": "1000000"}),
    "chunks": (lambda: (b"1\r\nx\r\n" for _ in range(9999)), {"Transfer_Encoding": "chunked"}),
    "gzip": (packed_name, {"Content_Encoding": "gzip"}),
}


@pytest.mark.parametrize("slow", SLOW)
@pytest.mark.parametrize("request_", REQUESTS)
def test_an_answer_that_trickles_is_refused(server, monkeypatch, tmp_path, slow, request_):
    monkeypatch.setattr("monai_weckd.pacs.answers._PATIENCE", 0.05)
    answers(monkeypatch, SLOW[slow][0], wait=0.01, **SLOW[slow][1])
    with pytest.raises((DicomwebError, DicomwebObjectError), match="expected more than 8,192 bytes in a second, got"):
        REQUESTS[request_](server, tmp_path / "a")


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "compress", "zstd", "gzip,identity"])
@pytest.mark.parametrize("request_", REQUESTS)
def test_another_encoding_is_refused(server, monkeypatch, tmp_path, encoding, request_):
    answers(monkeypatch, packed, Content_Encoding=encoding)
    with pytest.raises(
        (DicomwebError, DicomwebObjectError), match="expected an answer in gzip or as it is, got another"
    ):
        REQUESTS[request_](server, tmp_path / "a")


def test_an_answer_in_gzip_is_read(server, monkeypatch):
    rows = [row() for _ in range(9)]
    pages = [rows, []]
    answers(monkeypatch, lambda: [gzip.compress(json.dumps(pages.pop(0)).encode())], Content_Encoding="gzip")
    assert [one.uid for one in server.series({})] == [one["0020000E"]["Value"][0] for one in rows]


def row(**changes):
    return {tag: {"vr": "UI", "Value": [str(generate_uid())]} for tag in ("0020000D", "0020000E", "00080018")} | changes


@pytest.mark.parametrize("count", [1, 10, 500])
@pytest.mark.parametrize("request_", ["series", "instances"])
def test_pages_without_end_are_refused(fake, server, monkeypatch, tmp_path, count, request_):
    monkeypatch.setattr("monai_weckd.pacs.server._MOST_PAGES", 5)
    monkeypatch.setattr("monai_weckd.pacs.server._PAGE", 100)
    fake.results = lambda path, query: [row() for _ in range(count)]
    with pytest.raises(DicomwebError, match=r"expected at most 5 pages of 100 results, got more\. Narrow"):
        REQUESTS[request_](server, tmp_path)
    assert len(fake.requests) <= 6


@pytest.mark.parametrize("content", [b"[" * 100_000, b'[{"a":' * 50_000, b"[" * 100_000 + b"]" * 100_000])
def test_deep_answers_are_one_line(fake, server, tmp_path, content, capsys):
    fake.faults = {"series": [content]}
    assert main(["fetch", "--url", fake.url, "--modality", "OT", "--output_dir", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_an_instance_without_end_stops_no_other(fake, server, tmp_path, monkeypatch, capsys):
    fake.fill(series=3, instances=1)
    (_, uid, _), *_ = fake.objects
    fake.objects[next(iter(fake.objects))] = bytes(2 * BUDGET)
    assert main(["fetch", "--url", fake.url, "--modality", "OT", "--output_dir", str(tmp_path / "out")]) in (0, 1)
    assert len([path for path in (tmp_path / "out").iterdir() if path.is_dir()]) == 2
    told = "".join(capsys.readouterr())
    assert f"expected an answer of at most {BUDGET:,} bytes, got more" in told
    assert not list((tmp_path / "out").glob(f"{uid}*"))


def test_answers_of_the_usual_size_are_read(fake, server):
    fake.fill(series=400, instances=1)
    assert len(json.dumps(fake.results("/dicom-web/series", {}))) < BUDGET // 32
    assert len(list(server.series({}))) == 400
