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

"""Errors of DICOMweb requests, with messages that quote no patient data."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset

__all__ = [
    "PASSWORD",
    "USER",
    "DicomwebError",
    "DicomwebObjectError",
    "failure_text",
    "is_transient",
    "describe_failure",
]

USER, PASSWORD = "MONAI_WECKD_PACS_USER", "MONAI_WECKD_PACS_PASSWORD"
_LATER = (408, 429)  # client errors that may succeed on a retry
_LOGIN = (401, 403)


class DicomwebError(OSError):
    """The server is unusable; the message is one line with a URL that has no query and no credentials."""


class DicomwebObjectError(ValueError):
    """One object of the server is unusable, but others may be fine; the message is one line."""


def is_transient(error: Exception) -> bool:
    """Return whether a failed request may succeed on a retry.

    Args:
        error: the error that the request raised.

    """
    from requests import exceptions

    status = _status(error)
    if status is not None:
        return status in _LATER or status >= 500
    broken = (EOFError, exceptions.ConnectionError, exceptions.Timeout, exceptions.ChunkedEncodingError)
    return isinstance(error, broken) and not isinstance(error, exceptions.SSLError)


def describe_failure(place: str, error: Exception) -> DicomwebError | DicomwebObjectError:
    """Return an error to raise in place of the original, which may quote a patient's name, a query or a password.

    Args:
        place: the URL, without a query.
        error: the error that the request raised.

    """
    status = _status(error)
    if status is None:
        return DicomwebError(
            f"{place}: expected an answer, got {_reason(error)}. Check that the server runs, then repeat the command."
        )
    if status in _LOGIN:
        return DicomwebError(f"{place}: expected access, got {status}. Set {USER} and {PASSWORD}, or use .netrc.")
    if is_transient(error):
        return DicomwebError(f"{place}: expected an answer, got {status} repeatedly. Run the command again later.")
    return DicomwebObjectError(f"{place}: expected an answer, got {status}{_refusal(error)}. Look at the URL.")


def failure_text(item: Dataset) -> str:
    """Return why an instance was not stored, as the numeric code of the standard (PS3.18, I.2).

    Args:
        item: an item of the answer's sequence of failures.

    """
    return f"failure reason {int(item.get('FailureReason') or 0):04X}"


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: BaseException) -> str:
    """Return the operating system's reason, or the error's type; the error's own text would quote the query."""
    if isinstance(error, EOFError):
        return "a truncated one"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _refusal(error: Any) -> str:
    """Return why an instance was not stored, if the answer contains a list of failures."""
    try:
        answer = Dataset.from_json(error.response.json())
        return f", {failure_text(answer.FailedSOPSequence[0])}"
    except Exception:  # the body is empty or not machine-readable; the status is enough
        return ""
