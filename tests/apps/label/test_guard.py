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

from monai_weckd.apps.label.guard import Access, Guard, Person, person


def ask(guard, **headers):
    """Return status and detail of the answer to a request; 200 is that of the application behind."""
    started, ended = messages(guard, **headers)
    return started["status"], json.loads(ended["body"])["detail"] if ended["body"] else ""


def start(guard, **headers):
    """Return the first message of the answer, which has status and headers."""
    return messages(guard, **headers)[0]


def messages(guard, **headers):
    """Return the messages of the answer to a request."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    asyncio.run(guard(scope, None, send))
    return sent


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
    status, detail = ask(Guard(behind, access=Access("pässword")), host="anything", authorization=authorization)
    assert status == 401
    assert detail == "password: expected the server's, got none or another. Any user name is accepted."


def test_with_the_password_everything_is():
    assert ask(Guard(behind, access=Access("päss:word")), host="anything", authorization=basic("me:päss:word")) == (
        200,
        "",
    )


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "null", "cross-site, none"])
def test_what_another_site_has_a_browser_ask_is_refused_even_if_it_only_reads(site):
    status, detail = ask(LOCAL, **{"host": "127.0.0.1:8000", "sec-fetch-site": site})
    assert (status, detail) == (
        403,
        f"sec-fetch-site: expected same-origin or none, got {site!r}. Type the address of this server.",
    )


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_what_its_own_page_or_its_user_asks_is_answered(site):
    assert ask(LOCAL, **{"host": "127.0.0.1:8000", "sec-fetch-site": site}) == (200, "")


async def own_policy(scope, receive, send):
    headers = [(b"Content-Security-Policy", b"default-src 'self'")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("guard", "headers", "status"),
    [
        (LOCAL, {"host": "127.0.0.1"}, 200),
        (LOCAL, {"host": "example.org"}, 400),
        (LOCAL, {"host": "127.0.0.1", "origin": "null"}, 403),
        (LOCAL, {"host": "127.0.0.1", "sec-fetch-site": "cross-site"}, 403),
        (Guard(behind, access=Access("password")), {"host": "a"}, 401),
    ],
)
def test_no_other_page_may_use_an_answer(guard, headers, status):
    found = dict(start(guard, **headers)["headers"])
    assert start(guard, **headers)["status"] == status
    assert found[b"content-security-policy"].startswith(b"default-src 'none';")
    assert found[b"cross-origin-resource-policy"] == b"same-origin"
    assert found[b"x-content-type-options"] == b"nosniff"


def test_a_policy_of_the_answer_itself_stays():
    headers = start(Guard(own_policy), host="a")["headers"]
    assert [value for name, value in headers if name.lower() == b"content-security-policy"] == [b"default-src 'self'"]


async def reading(scope, receive, send):
    """Read the body as an application does, and tell its length; one that ends early has no answer."""
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        length, more = length + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps({"detail": length}).encode()})


def upload(pieces, **headers):
    """Return status and detail of the answer to a request with a body, and how many pieces of it were read."""
    sent, left = [], list(pieces)

    async def receive():
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    named = {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in named.items()]}
    asyncio.run(Guard(reading)(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], json.loads(sent[1]["body"])["detail"], len(pieces) - len(left)


FORM = {"content_type": "multipart/form-data; boundary=x"}
PIECE = bytes(2**18)


@pytest.mark.parametrize(
    ("pieces", "headers", "read"),
    [
        ([PIECE] * 9, {}, 5),
        ([PIECE] * 9, {"transfer_encoding": "chunked"}, 5),
        ([PIECE] * 9, {"content_length": "5"}, 5),
        ([PIECE] * 9, {"content_length": str(9 * 2**18)}, 0),
        ([PIECE] * 9, {"content_length": "9" * 5000}, 0),
        ([PIECE] * 9, {"content_type": "application/json"}, 5),
        ([PIECE] * 9, {"content_type": "text/plain; multipart/form-data"}, 5),
        ([PIECE] * 99, FORM, 65),
        ([PIECE] * 99, {**FORM, "content_length": str(99 * 2**18)}, 0),
        ([bytes(2**26)], FORM, 1),
    ],
)
def test_a_body_that_is_too_long_is_refused(monkeypatch, pieces, headers, read):
    monkeypatch.setenv("MONAI_WECKD_MEMORY", str(2**26))
    status, detail, found = upload(pieces, **headers)
    assert (status, found) == (413, read)
    assert detail.startswith(
        f"body: expected at most {2**24 if 'multipart' in headers.get('content_type', '')[:9] else 2**20:,} bytes"
    )


@pytest.mark.parametrize("length", ["-1", "1e9", "", "many"])
def test_a_length_that_is_none_is_refused(length):
    assert upload([b""], content_length=length)[::2] == (400, 0)


@pytest.mark.parametrize(("pieces", "headers"), [([PIECE] * 4, {}), ([PIECE] * 64, FORM), ([b""], {})])
def test_a_body_of_the_usual_length_is_read(monkeypatch, pieces, headers):
    monkeypatch.setenv("MONAI_WECKD_MEMORY", str(2**26))
    length = sum(map(len, pieces))
    assert upload(pieces, content_length=str(length), **headers) == (200, length, len(pieces))


async def telling(scope, receive, send):
    """Answer with who has asked."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps({"detail": person()}).encode()})


def who(access, **headers):
    """Return the status of the answer, and who has asked or what was refused."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    status, detail = ask(Guard(telling, access=access), host="a", **named)
    return status, Person(*detail) if status == 200 else detail


PEOPLE = Access(people={"Ada": "päss:word", "Béla": "secret 2"})
PROXY = Access(user_header="X-Remote-User")


def test_the_page_says_who_asks_where_nobody_else_does():
    assert who(Access()) == (200, Person(None, True))
    assert who(Access(), x_weckd_person="B%C3%A9la%20Z.") == (200, Person("Béla Z.", True))
    assert who(Access("pässword"), authorization=basic("x:pässword")) == (200, Person(None, True))
    for name in ("%0a", "a%0ab", "a" * 65, "a%e2%80%8bb", "%20"):
        status, detail = who(Access(), x_weckd_person=name)
        assert (status, detail[:45]) == (400, "name: expected a name of 1 to 64 characters t")


@pytest.mark.parametrize("authorization", ["", basic("Ada:secret 2"), basic("ada:päss:word"), basic(":"), basic("C:x")])
def test_a_person_needs_their_own_password(authorization):
    status, detail = who(PEOPLE, authorization=authorization)
    assert (status, detail) == (
        401,
        "password: expected that of a person in the password file, got none or another. Try again.",
    )


@pytest.mark.parametrize(("name", "password"), [("Ada", "päss:word"), ("Béla", "secret 2"), ("Be\u0301la", "secret 2")])
def test_a_password_tells_who_asks_and_the_page_cannot_say_otherwise(name, password):
    expected = Person("Ada" if name == "Ada" else "Béla", False)
    found = who(PEOPLE, authorization=basic(f"{name}:{password}"), x_weckd_person="Eve")
    assert found == (200, expected)


def test_a_proxy_tells_who_asks_and_the_page_cannot_say_otherwise():
    assert who(PROXY, x_remote_user=" Ada ", x_weckd_person="Eve") == (200, Person("Ada", False))
    assert who(PROXY, x_remote_user="Béla") == (200, Person("Béla", False))
    assert who(Access(), x_remote_user="Ada") == (200, Person(None, True))  # off by default
    for headers in ({}, {"x_remote_user": " "}, {"x_weckd_person": "Eve"}):
        status, detail = who(PROXY, **headers)
        assert (status, detail) == (
            403,
            "X-Remote-User: expected a name from the proxy, got none. Open the address of the proxy.",
        )
