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

"""ASGI middleware that checks host, origin and password of each request, and tells who sent it."""

from __future__ import annotations

import base64
import hmac
import json
import re
import unicodedata
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

from monai_weckd.utils.budget import memory_budget

__all__ = ["Access", "Guard", "Person", "checked_name", "person"]

# added to answers that lack them: only pages may load anything, and only from this server
_HEADERS = {
    b"content-security-policy": b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}

_HOST = re.compile(r"\[([0-9a-f:.]+)\](?::\d+)?|([^\[\]:/@]+)(?::\d+)?", re.IGNORECASE)

_TOKEN = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)  # RFC 9110, 5.6.2
_MOST_BODY = 2**20  # bytes, but for uploads

_LONGEST_NAME = 64
_OWN_HEADER = "x-weckd-person"  # a name that somebody gave on the page, percent-encoded

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Access:
    """Who may use a server, and how it learns who they are.

    Args:
        password: password that every request must contain, with any user name; default None: none.
        people: password of each person, instead of one for all; default: none.
        user_header: header in which a proxy in front of the server names the person; default None: none. A server that
            has neither people nor this header believes the name that the page has asked for.

    Raises:
        ValueError: When there are both people and a header, or the header's name is none.

    """

    password: str | None = None
    people: Mapping[str, str] = field(default_factory=dict)
    user_header: str | None = None

    def __post_init__(self) -> None:
        if self.people and self.user_header:
            raise ValueError(
                f"user_header: expected one source of names, got {self.user_header!r} beside a password file with "
                "names. Give that file one password, without a name."
            )
        if self.user_header is not None and not _TOKEN.fullmatch(self.user_header):
            raise ValueError(
                f"user_header: expected the name of an HTTP header, got {self.user_header!r}. Pass e.g. X-Remote-User."
            )


class Person(NamedTuple):
    """Who sent a request.

    Args:
        name: the name, None: unknown.
        is_asked: whether the page asks for it.

    """

    name: str | None = None
    is_asked: bool = True


_NOBODY = Person()
_person: ContextVar[Person] = ContextVar("person", default=_NOBODY)


def person() -> Person:
    """Return who sent the current request."""
    return _person.get()


def checked_name(name: str, *, where: str) -> str:
    """Return a person's name without space around it, in the usual Unicode form.

    Args:
        name: the name.
        where: its place, for the error.

    Raises:
        ValueError: When it is empty or too long, or has characters that cannot be seen.

    """
    name = unicodedata.normalize("NFC", name).strip()
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise ValueError(
            f"{where}: expected a name of 1 to {_LONGEST_NAME} characters that can be seen, got {name[:80]!r}. "
            "Correct it."
        )
    return name


class Guard:
    """Pass on only requests from the user of this server.

    The host header of a request must be one of the server's own names; a foreign name that resolves to this machine
    (DNS rebinding) would bypass the browser's same-origin policy. The request must not come from another web page, even
    if it only reads. If the server has a password, the request must contain it (HTTP basic authentication). Its body
    must not be too long. Each answer, including refusals, forbids other pages to use it. :py:func:`person` tells the
    application who sent the request.

    Args:
        app: the protected ASGI application.
        hosts: names of this server, default None: any.
        access: who may use it, default: anybody.

    """

    def __init__(self, app: Any, *, hosts: Collection[str] | None = None, access: Access | None = None) -> None:
        self.app = app
        self.hosts = hosts
        self.access = access or Access()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        """Refuse a request, or pass it on to the application.

        Args:
            scope: the connection.
            receive: returns the request's body.
            send: sends the answer.

        """
        if scope["type"] == "http":
            send = _marked(send)
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            refused = self._refused(headers)
            refused = refused or _too_long(headers.get("content-length", "0"), most := _most_of(headers))
            if refused is not None:
                await _answer(send, *refused)
                return
            try:
                _person.set(self._person(headers))
            except ValueError as error:
                await _answer(send, 400, str(error))
                return
            receive, send = _bounded(receive, send, most)
        await self.app(scope, receive, send)

    def _refused(self, headers: MutableMapping[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            return 400, f"host: expected one of {sorted(self.hosts)}, got {host!r}. Use the address that was printed."
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, f"origin: expected a page of this server, got {origin!r}. Open the server's own page."
        site = headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none"):
            return 403, f"sec-fetch-site: expected same-origin or none, got {site!r}. Type the address of this server."
        name, password = _credentials(headers.get("authorization", ""))
        if self.access.people:
            expected = self.access.people.get(name)
            if expected is None or not hmac.compare_digest(password, expected.encode()):
                return 401, "password: expected that of a person in the password file, got none or another. Try again."
        elif self.access.password is not None and not hmac.compare_digest(password, self.access.password.encode()):
            return 401, "password: expected the server's, got none or another. Any user name is accepted."
        header = self.access.user_header
        if header is not None and not headers.get(header.lower(), "").strip():
            return 403, f"{header}: expected a name from the proxy, got none. Open the address of the proxy."
        return None

    def _person(self, headers: MutableMapping[str, str]) -> Person:
        header = self.access.user_header
        if self.access.people:
            return Person(_credentials(headers["authorization"])[0], False)
        if header is not None:
            name = headers[header.lower()].encode("latin-1").decode("utf-8", errors="replace")
            return Person(checked_name(name, where=header), False)
        name = unquote(headers.get(_OWN_HEADER, ""))
        return Person(checked_name(name, where="name") if name else None)


def _credentials(authorization: str) -> tuple[str, bytes]:
    """Return the user name and the password of a request, both empty without any."""
    kind, _, value = authorization.partition(" ")
    try:
        name, _, password = base64.b64decode(value, validate=True).partition(b":")
        if kind.lower() == "basic":
            return unicodedata.normalize("NFC", name.decode()), password
    except ValueError:  # not base64, or not ASCII, or a name in another encoding
        pass
    return "", b""


def _most_of(headers: MutableMapping[str, str]) -> int:
    """Return how many bytes the body of a request may have: an upload is an image, all else is short."""
    is_upload = headers.get("content-type", "").lower().startswith("multipart/form-data")
    return memory_budget() // 4 if is_upload else _MOST_BODY


def _too_long(length: str, most: int) -> tuple[int, str] | None:
    if not length.isdecimal():
        return 400, "content-length: expected a number, got something else. Correct it."
    if int(length[:20]) > most:
        return 413, f"body: expected at most {most:,} bytes, got {int(length[:20]):,}. Send less."
    return None


def _bounded(receive: Receive, send: Send, most: int) -> tuple[Receive, Send]:
    """Return functions for a request whose body may say nothing of its length: it is refused when it is too long."""
    taken, refused, text = 0, False, f"body: expected at most {most:,} bytes, got more. Send less."

    async def receive_some() -> MutableMapping[str, Any]:
        nonlocal taken, refused
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most:
            refused = refused or await _answer(send, 413, text)
            return {"type": "http.disconnect"}
        return message

    async def send_some(message: MutableMapping[str, Any]) -> None:
        if not refused:  # else it has its answer
            await send(message)

    return receive_some, send_some


def _name(host: str) -> str:
    """Return a host's name without its port, "" if the text is not a valid host."""
    match = _HOST.fullmatch(host)
    return (match[1] or match[2]).lower() if match else ""


def _marked(send: Send) -> Send:
    """Return a function that sends an answer with missing headers added."""

    async def marked(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            known = {name.lower() for name, _ in headers}
            message = {**message, "headers": [*headers, *(one for one in _HEADERS.items() if one[0] not in known)]}
        await send(message)

    return marked


async def _answer(send: Send, status: int, message: str) -> bool:
    """Send an error as JSON, and return True."""
    body = json.dumps({"detail": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="monai_weckd"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return True
