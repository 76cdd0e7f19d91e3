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

"""A DICOMweb client that queries, retrieves and stores with retries."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

from pydicom.dataset import Dataset

from monai_weckd.data.dicom.elements import read_header
from monai_weckd.data.dicom.quiet import quiet_loggers
from monai_weckd.data.dicom.sr_series import series_number
from monai_weckd.pacs.answers import ENCODINGS, BoundedBody
from monai_weckd.pacs.errors import (
    PASSWORD,
    USER,
    DicomwebError,
    DicomwebObjectError,
    describe_failure,
    failure_text,
    is_transient,
)
from monai_weckd.pacs.multipart import boundary_of, single_part
from monai_weckd.utils.budget import memory_budget
from monai_weckd.utils.files import write_error

__all__ = ["DicomwebServer", "Series", "is_uid"]

_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_NUMBER = "00200011"  # of a series
_PIECE = 2**18
_TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of an answer
_PAGE = 500  # results per page of a query
_MOST_PAGES = 2000  # of a query
_MOST_ANSWER = 2**26  # bytes of one that is no instance
_AS_OBJECTS = 32  # bytes that one byte of JSON may become
_WAITS = (1, 2, 4, 8)  # seconds before each further attempt

T = TypeVar("T")


class Series(NamedTuple):
    """A series of the server.

    Args:
        study: its study's instance UID.
        uid: its own.
    """

    study: str
    uid: str


def is_uid(text: str) -> bool:
    """Return whether a text is a UID (numbers separated by dots, at most 64 characters), and so a safe file name.

    Example::

        >>> is_uid("1.2.840"), is_uid("../1.2"), is_uid("1..2")
        (True, False, False)

    """
    return len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) is not None


class DicomwebServer:
    """Query a DICOMweb server (QIDO-RS), retrieve objects (WADO-RS) and store objects (STOW-RS).

    A request with a transient failure (no connection, a truncated answer, 408, 429, 5xx) is repeated after 1, 2, 4 and
    8 seconds; other failures raise at once. User and password come from the environment variables
    ``MONAI_WECKD_PACS_USER`` and ``MONAI_WECKD_PACS_PASSWORD``, or from ``.netrc``. Needs ``dicomweb-client``.

    Args:
        url: URL of the service, such as ``https://host/dicom-web``.

    Raises:
        ImportError: When dicomweb-client is not installed.
        ValueError: When the URL is invalid or holds a password, or the environment has only one of user and password.

    """

    def __init__(self, url: str) -> None:
        web, session_utils = _dicomweb_client()
        self.url = _checked_url(url)
        quiet_loggers("urllib3.connectionpool")  # it logs queries
        self._session = session_utils.create_session()
        self._session.headers["Accept-Encoding"] = ENCODINGS
        self._session.hooks["response"] += [self._refuse_leaving, self._bound]
        user, password = os.environ.get(USER), os.environ.get(PASSWORD)
        if (user is None) != (password is None):
            raise ValueError(f"{USER}, {PASSWORD}: expected both in the environment, got one. Set the other.")
        if user is not None and password is not None:
            self._session.auth = (user.encode(), password.encode())
        # permissive, because is_uid checks UIDs and accepts slight violations of the standard
        self._client = web.DICOMwebClient(self.url, session=self._session, permissive_uid=True, timeout=_TIMEOUT)
        self._client.set_http_retry_params(retry=False)

    def _refuse_leaving(self, response: Any, **options: Any) -> None:
        """Refuse a redirect to another origin: it would carry a query or a report to another host.

        The library calls this for each answer, before it follows a redirect.
        """
        target = self._session.get_redirect_target(response)
        if target is not None and _origin(urljoin(response.url, target)) != _origin(self.url):
            raise DicomwebError(
                f"{self.url}: expected an answer, got a redirect to another host or port. "
                "Nothing was sent there; pass the URL of that service if you trust it."
            )

    def _bound(self, response: Any, **options: Any) -> None:
        """Bound an answer: an instance to what could be decoded, any other to what its JSON may become in memory."""
        budget = memory_budget()
        most = budget if options.get("stream") else min(_MOST_ANSWER, budget // _AS_OBJECTS)
        name = "" if options.get("stream") else f"{self.url}: "
        kind = ValueError if options.get("stream") else DicomwebError
        response.raw = BoundedBody(
            response.raw, most=most, refuse=lambda text: kind(f"{name}{text} Ask who runs the server.")
        )

    def series(self, filters: Mapping[str, str]) -> Iterator[Series]:
        """Yield the matching series, page by page; their UIDs are not checked.

        Args:
            filters: values to match, by DICOM keyword.

        Raises:
            DicomwebError: When the server repeats a full page, because it does not support an offset, or its pages do
                not end.

        """
        search = partial(self._client.search_for_series, search_filters=dict(filters))
        for study, uid in self._pages("series", search, _STUDY, _SERIES):
            yield Series(study, uid)

    def instances(self, series: Series) -> list[str]:
        """Return the UIDs of a series' instances.

        Args:
            series: the series.

        Raises:
            DicomwebObjectError: When a UID is invalid, or the series has no instance.

        """
        place = f"studies/{series.study}/series/{series.uid}"
        if not all(map(is_uid, series)):
            raise DicomwebObjectError(f"{self.url}/series: expected UIDs of a series and its study, got other text.")
        search = partial(self._client.search_for_instances, *series)
        found = [uid for (uid,) in self._pages(f"{place}/instances", search, _INSTANCE)]
        if not found or not all(map(is_uid, found)):
            got = "other text" if found else "none"
            raise DicomwebObjectError(f"{self.url}/{place}: expected UIDs of instances, got {got}.")
        return found

    def series_numbers(self, study: str) -> dict[str, int]:
        """Return the SeriesNumber of each series of a study that has one, by its UID.

        Args:
            study: its study's instance UID; one that the server does not have has no series.

        """
        search = partial(self._client.search_for_series, study, fields=["SeriesNumber"])
        found = self._pages(f"studies/{study}/series", search, _SERIES, _NUMBER)
        numbers = {uid: series_number(text) for uid, text in found}
        return {uid: number for uid, number in numbers.items() if number is not None}

    def has(self, study: str, instance: str) -> bool:
        """Return whether the server has an instance.

        Args:
            study: its study's instance UID.
            instance: its own.

        """
        search = partial(self._client.search_for_instances, study, search_filters={"SOPInstanceUID": instance})
        found = self._results(f"studies/{study}/instances", search)
        return any(_value(entry, _INSTANCE) == instance for entry in found)

    def retrieve(self, series: Series, instance: str, path: Path) -> None:
        """Write an instance to a file, byte for byte as the server sends it; safe to call from several threads.

        Args:
            series: its series.
            instance: its UID.
            path: the file; after an error, it may be incomplete.

        Raises:
            DicomwebObjectError: When the server refuses the request, or sends something else.

        """
        place = _place(series, instance)
        self._call(place, partial(self._download, place, path))

    def check(self, series: Series, instance: str, path: Path) -> None:
        """Check that a retrieved file is the requested instance.

        Args:
            series: its series.
            instance: its UID.
            path: the file.

        Raises:
            DicomwebObjectError: When the file is another object.
            DicomReadError: When the file is not DICOM.

        """
        name = f"{self.url}/{_place(series, instance)}"
        if read_header(path, "SeriesInstanceUID", "SOPInstanceUID", name=name) != (series.uid, instance):
            raise DicomwebObjectError(f"{name}: expected the instance that was asked for, got another.")

    def store(self, dataset: Dataset) -> str:
        """Store an instance unless the server has it, and return ``"stored"`` or ``"there already"``.

        Args:
            dataset: the instance.

        Raises:
            DicomwebObjectError: When the server refuses the instance.

        """
        place = f"studies/{dataset.StudyInstanceUID}"
        before: list[bool] = []

        def attempt() -> Dataset | None:
            # checked before each attempt: an interrupted upload may have arrived
            before.append(self.has(dataset.StudyInstanceUID, dataset.SOPInstanceUID))
            return None if before[-1] else self._sent(dataset)

        answer = self._call(place, attempt)
        if answer is not None:
            self._check_stored(place, dataset, answer)
        return "there already" if before[0] else "stored"

    def _sent(self, dataset: Dataset) -> Dataset:
        from requests import RequestException

        try:
            answer: Dataset = self._client.store_instances([dataset])
        except Exception as error:
            if isinstance(error, (RequestException, DicomwebError)) and not isinstance(error, ValueError):
                raise
            return Dataset()  # parsing the answer may raise anything; the caller then asks whether it was stored
        return answer

    def _check_stored(self, place: str, dataset: Dataset, answer: Dataset) -> None:
        uid = dataset.SOPInstanceUID
        for item in answer.get("FailedSOPSequence") or ():
            if item.get("ReferencedSOPInstanceUID") == uid:
                raise DicomwebObjectError(f"{self.url}/{place}: expected to be stored, got {failure_text(item)}.")
        accepted = [item.get("ReferencedSOPInstanceUID") for item in answer.get("ReferencedSOPSequence") or ()]
        if uid not in accepted and not self.has(dataset.StudyInstanceUID, uid):
            raise DicomwebObjectError(f"{self.url}/{place}: expected to be stored, got no confirmation.")

    def _pages(self, place: str, search: Callable[..., Any], *tags: str) -> Iterator[tuple[str, ...]]:
        """Yield the values of some elements of each result once; stop at a page without new results."""
        seen: set[tuple[str, ...]] = set()
        offset, pages = 0, 0
        # a short page is not necessarily the last one: the server may have a lower limit
        while page := self._results(place, partial(search, limit=_PAGE, offset=offset)):
            pages += 1
            if pages > _MOST_PAGES or len(seen) + len(page) > _MOST_PAGES * _PAGE:
                raise DicomwebError(
                    f"{self.url}/{place}: expected at most {_MOST_PAGES} pages of {_PAGE} results, got more. "
                    "Narrow the query with --filter."
                )
            found = dict.fromkeys(tuple(_value(entry, tag) for tag in tags) for entry in page)
            new = [values for values in found if values not in seen]
            if not new:
                if len(page) == _PAGE:
                    raise DicomwebError(
                        f"{self.url}/{place}: expected further results after {len(seen)}, got the same ones: the "
                        "server does not support an offset. Narrow the query with --filter."
                    )
                return
            seen.update(new)
            yield from new
            offset += len(page)

    def _results(self, place: str, search: Callable[[], Any]) -> list[Any]:
        found = self._call(place, search)
        if not isinstance(found, list):
            raise DicomwebError(f"{self.url}/{place}: expected a list of results, got other JSON. Look at the URL.")
        return found

    def _download(self, place: str, path: Path) -> None:
        from requests import RequestException

        headers = {
            "Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*',
            "Accept-Encoding": "identity",  # compression on top of the transfer syntax hardly shrinks pixels
        }
        url = f"{self.url}/{place}"
        with self._session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            response.raise_for_status()
            try:
                boundary = boundary_of(response.headers.get("Content-Type", ""))
                with path.open("wb") as file:
                    for piece in single_part(response.iter_content(_PIECE), boundary):
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
            except ValueError as error:
                raise DicomwebObjectError(f"{url}: {error}") from None
            except OSError as error:
                if isinstance(error, RequestException):
                    raise
                raise write_error(path, error) from None

    def _call(self, place: str, request: Callable[[], T]) -> T:
        """Return the result of a request; repeat it after transient failures."""
        from requests import RequestException

        waits = iter(_WAITS)
        while True:
            try:
                return request()
            except (RequestException, EOFError, RecursionError) as error:  # the last for deep JSON
                wait = next(waits, None)
                if wait is None or not is_transient(error):
                    raise describe_failure(f"{self.url}/{place}", error) from None
            time.sleep(wait)


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        # the message does not repeat even the user name
        raise ValueError(f"url: expected no user and password in it, got some. Set {USER} and {PASSWORD}.")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"url: expected http(s)://host/path, got {url!r}. Pass where the server has DICOMweb.")
    return urlunsplit(parts).rstrip("/")


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    """Return scheme, host and port of a URL, None if it is malformed."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    return parts.scheme.lower(), parts.hostname, port or {"http": 80, "https": 443}.get(parts.scheme.lower())


def _place(series: Series, instance: str) -> str:
    return f"studies/{series.study}/series/{series.uid}/instances/{instance}"


def _value(entry: Any, tag: str) -> str:
    try:
        return str(entry[tag]["Value"][0])
    except (KeyError, IndexError, TypeError):
        return ""


def _dicomweb_client() -> tuple[Any, Any]:
    try:
        from dicomweb_client import session_utils, web
    except ImportError as error:
        raise ImportError(
            "dicomweb_client: expected to be installed, got none. "
            "Run pip install 'monai-weckd[pacs]' or pip install dicomweb-client."
        ) from error
    return web, session_utils
