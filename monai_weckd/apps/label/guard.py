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

"""ASGI middleware that checks host, origin and password of each request."""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from monai_weckd.utils.budget import memory_budget

__all__ = ["Guard"]

# added to answers that lack them: only pages may load anything, and only from this server
_HEADERS = {
    b"content-security-policy": b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}

_HOST = re.compile(r"\[([0-9a-f:.]+)\](?::\d+)?|([^\[\]:/@]+)(?::\d+)?", re.IGNORECASE)

_MOST_BODY = 2**20  # bytes, but for uploads

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """Pass on only requests from the user of this server.

    The host header of a request must be one of the server's own names; a foreign name that resolves to this machine
    (DNS rebinding) would bypass the browser's same-origin policy. The request must not come from another web page, even
    if it only reads. If the server has a password, the request must contain it (HTTP basic authentication, any user
    name). Its body must not be too long. Each answer, including refusals, forbids other pages to use it.

    Args:
        app: the protected ASGI application.
        hosts: names of this server, default None: any.
        password: the password, default None: no password.

    """

    def __init__(self, app: Any, *, hosts: Collection[str] | None = None, password: str | None = None) -> None:
        self.app = app
        self.hosts = hosts
        self.password = password

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
        if self.password is not None and not self._knows(headers.get("authorization", "")):
            return 401, "password: expected the server's, got none or another. Any user name is accepted."
        return None

    def _knows(self, authorization: str) -> bool:
        kind, _, value = authorization.partition(" ")
        if kind.lower() != "basic":
            return False
        try:
            given = base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:  # not base64, or not ASCII
            return False
        return hmac.compare_digest(given, str(self.password).encode())


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
