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

import pytest
import requests
from pydicom.dataset import Dataset

from monai_weckd.pacs.errors import DicomwebError, DicomwebObjectError, describe_failure, failure_text, is_transient

URL = "http://host/dicom-web/studies"


def refused(status, content=b""):
    response = requests.Response()
    response.status_code, response._content = status, content
    return requests.HTTPError("Doe^Jane", response=response)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (refused(500), True),
        (refused(503), True),
        (refused(429), True),
        (refused(404), False),
        (refused(401), False),
        (requests.ConnectionError(), True),
        (requests.Timeout(), True),
        (requests.exceptions.SSLError(), False),
        (EOFError(), True),
        (ValueError(), False),
    ],
)
def test_what_may_pass_is_asked_again(error, again):
    assert is_transient(error) is again


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (refused(401), DicomwebError, "expected access, got 401. Set MONAI_WECKD_PACS_USER and"),
        (refused(503), DicomwebError, "expected an answer, got 503 repeatedly."),
        (refused(404), DicomwebObjectError, "expected an answer, got 404. Look at the URL."),
        (EOFError("Doe^Jane"), DicomwebError, "expected an answer, got a truncated one."),
        (ConnectionRefusedError(111, "Connection refused"), DicomwebError, "got Connection refused."),
        (ValueError("Doe^Jane"), DicomwebError, "expected an answer, got ValueError."),
    ],
)
def test_a_failure_is_told_without_what_it_quotes(error, kind, message):
    told = describe_failure(URL, error)
    assert type(told) is kind
    assert str(told).startswith(f"{URL}: ")
    assert message in str(told)
    assert "Doe" not in str(told)


def test_the_reason_of_a_refused_instance_is_the_number_of_the_standard():
    item = Dataset()
    item.FailureReason = 0x0122  # PS3.18, I.2: referred SOP class not supported
    assert failure_text(item) == "failure reason 0122"
    answer = Dataset()
    answer.FailedSOPSequence = [item]
    told = describe_failure(URL, refused(409, answer.to_json().encode()))
    assert str(told) == f"{URL}: expected an answer, got 409, failure reason 0122. Look at the URL."
