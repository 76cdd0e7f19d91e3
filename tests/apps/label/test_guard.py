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

import asyncio
import base64
import json

import pytest

from monai_weckd.apps.label.guard import Guard


def ask(guard, **headers):
    """Return status and detail of the answer to a request; 200 is that of the application behind."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    asyncio.run(guard(scope, None, send))
    body = sent[1]["body"]
    return sent[0]["status"], json.loads(body)["detail"] if body else ""


async def behind(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


LOCAL = Guard(behind, hosts={"127.0.0.1", "localhost", "::1"})


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"])
def test_its_own_names_are_let_through(host):
    assert ask(LOCAL, host=host) == (200, "")
    assert ask(LOCAL, host=host, origin=f"http://{host}") == (200, "")


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "", "[", "example.org:127.0.0.1"])
def test_foreign_names_are_refused(host):
    status, detail = ask(LOCAL, host=host)
    assert status == 400
    assert detail.startswith("host: expected one of ['127.0.0.1', '::1', 'localhost'], got")


@pytest.mark.parametrize(
    "origin", ["http://example.org", "http://127.0.0.1:8001", "null", "http://example.org/127.0.0.1:8000"]
)
def test_pages_of_other_sites_are_refused(origin):
    status, detail = ask(LOCAL, host="127.0.0.1:8000", origin=origin)
    assert (status, detail[:49]) == (403, f"origin: expected a page of this server, got {origin!r}"[:49])


def basic(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic !",
        "Basic é",
        basic("me"),
        basic("me:other"),
        basic("pässword:"),
        "Bearer pässword".encode().decode("latin-1"),
    ],
)
def test_without_the_password_nothing_is_answered(authorization):
    status, detail = ask(Guard(behind, password="pässword"), host="anything", authorization=authorization)
    assert status == 401
    assert detail == "password: expected the server's, got none or another. Any user name will do."


def test_with_the_password_everything_is():
    assert ask(Guard(behind, password="päss:word"), host="anything", authorization=basic("me:päss:word")) == (200, "")
