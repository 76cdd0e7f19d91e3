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

"""A DICOMweb server in this process, which fails as it is told to."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from email.parser import BytesHeaderParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import numpy as np
from dicom_files import dicom_dataset
from pydicom import dcmread
from pydicom.uid import generate_uid

ROOT = "/dicom-web"
BOUNDARY = b"fake-boundary"


def dicom_bytes(dataset) -> bytes:
    with io.BytesIO() as buffer:
        dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()


def image(study, series, *, size=16, **elements):
    """Return UID and content of a new picture, with a patient in its header."""
    pixels = np.random.default_rng().integers(0, 256, (size, size), dtype=np.uint8)
    dataset = dicom_dataset(pixels, StudyInstanceUID=study, SeriesInstanceUID=series, **elements)
    return str(dataset.SOPInstanceUID), dicom_bytes(dataset)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        # who leaves an answer unread resets the connection; the report of it would be taken for the command's own words
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class FakeDicomweb:
    """What the server has (``objects``: study, series, instance -> content), and how it behaves.

    ``faults`` are answers to requests whose path has the key: a status, "drop" (half of the answer), "junk" (no
    DICOM), "html", or any bytes as JSON; each is given once.
    """

    def __init__(self):
        self.objects, self.faults, self.requests = {}, {}, []
        self.knows_offset, self.most, self.login, self.refuses = True, None, None, {}
        self.server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}{ROOT}"
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def fill(self, series=2, instances=3, study=None, **elements):
        """Add series of one study, by default a new one, and return its UID."""
        study = study or str(generate_uid())
        for _ in range(series):
            uid = str(generate_uid())
            for _ in range(instances):
                instance, content = image(study, uid, **elements)
                self.objects[study, uid, instance] = content
        return study

    def results(self, path, query):
        found = re.fullmatch(rf"{ROOT}(?:/studies/([^/]+))?(?:/series/([^/]+))?/(series|instances)", path)
        study, series, level = found.groups()
        rows = {}
        for (one, two, three), content in self.objects.items():
            if study in (None, one) and series in (None, two) and query.get("SOPInstanceUID", three) == three:
                row = {"0020000D": one, "0020000E": two, **({"00080018": three} if level == "instances" else {})}
                # as servers do, with what is nobody's business
                rows[tuple(row.values())] = {tag: {"vr": "UI", "Value": [value]} for tag, value in row.items()} | {
                    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
                    **self._number(level, content),
                }
        offset = int(query.get("offset", 0)) if self.knows_offset else 0
        limit = min(int(query.get("limit", 10**9)), self.most or 10**9)
        return list(rows.values())[offset : offset + limit]

    @staticmethod
    def _number(level, content):
        number = None
        if level == "series" and content[128:132] == b"DICM":
            number = dcmread(io.BytesIO(content), specific_tags=["SeriesNumber"], stop_before_pixels=True)
            number = number.get("SeriesNumber")
        return {} if number is None else {"00200011": {"vr": "IS", "Value": [int(number)]}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake = None

    def log_message(self, *args):
        pass

    def do_GET(self):
        url = urlsplit(self.path)
        self.fake.requests.append(self.path)
        fault = self._fault(url.path)
        if isinstance(fault, int):
            self._answer(fault, b"of Doe^Jane", "text/plain")
        elif isinstance(fault, bytes):
            self._answer(200, fault, "application/dicom+json")
        elif url.path.endswith(("/series", "/instances")):
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            self._answer(200, json.dumps(self.fake.results(url.path, query)).encode(), "application/dicom+json")
        else:
            self._object(tuple(url.path.split("/")[3::2]), fault)

    def do_POST(self):
        self.fake.requests.append(f"POST {self.path}")
        content = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self._fault("POST")
        if fault == "html":
            self._keep(content)
            self._answer(200, b"<html>", "application/json")
        elif fault is not None and fault != "drop":
            self._answer(fault, b"of Doe^Jane", "text/plain")
        else:
            answer = self._keep(content)
            if fault == "drop":  # stored, but nobody is told
                self.close_connection = True
                return
            self._answer(409 if "00081198" in answer else 200, json.dumps(answer).encode(), "application/dicom+json")

    def _fault(self, path):
        if self.fake.login and self.headers.get("Authorization") != self.fake.login:
            return 401
        for key, faults in self.fake.faults.items():
            if key in path and faults:
                return faults.pop(0)
        return None

    def _object(self, key, fault):
        content = b"no DICOM" if fault == "junk" else self.fake.objects.get(key)
        if content is None:
            self._answer(404, b"", "text/plain")
            return
        part = b"\r\n".join((b"--" + BOUNDARY, b"Content-Type: application/dicom", b"", content))
        body = part + (b"\r\n--" + BOUNDARY + b"--\r\n" if fault != "open" else b"")
        kind = (
            "text/html"
            if fault == "html"
            else f'multipart/related; type="application/dicom"; boundary={BOUNDARY.decode()}'
        )
        self._answer(200, body, kind, sent=len(body) // 2 if fault == "drop" else None)

    def _keep(self, content):
        """Store what is posted, and return the answer."""
        head = BytesHeaderParser().parsebytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n")
        (part,) = content.split(b"--" + head.get_boundary().encode())[1:-1]
        content = part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
        dataset = dcmread(io.BytesIO(content))
        uid = str(dataset.SOPInstanceUID)
        item = {"00081155": {"vr": "UI", "Value": [uid]}}
        if uid in self.fake.refuses:
            item["00081197"] = {"vr": "US", "Value": [self.fake.refuses[uid]]}
            return {"00081198": {"vr": "SQ", "Value": [item]}}
        self.fake.objects[str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID), uid] = content
        return {"00081199": {"vr": "SQ", "Value": [item]}}

    def _answer(self, status, body, kind, sent=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])
        if sent is not None:
            self.close_connection = True


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
