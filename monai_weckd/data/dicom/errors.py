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

"""The error for unreadable DICOM input, which keeps patient data out of its message."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom.datadict import tag_for_keyword
from pydicom.errors import InvalidDicomError

from monai_weckd.data.dicom.quiet import quiet_headers
from monai_weckd.utils.budget import BudgetError
from monai_weckd.utils.errors import plain_reason

__all__ = ["DicomReadError", "named_errors"]

quiet_headers()  # here, since whatever reads a header imports this module


class DicomReadError(ValueError):
    """A DICOM input cannot be given as an image; the message is one line that names the file."""


@contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Turn any error that a malformed file causes into one :py:class:`DicomReadError`; do not nest this.

    A parser quotes what it could not parse. In a damaged file that may be the name of the patient, so its words are
    left out, and the original exception is not shown as the cause.

    Args:
        name: the file that is being read, the first word of the message.

    Raises:
        DicomReadError: When the body raises an exception of any kind.
    """
    try:
        yield
    except (DicomReadError, BudgetError) as error:
        raise DicomReadError(f"{name}: {error}") from None
    except InvalidDicomError:
        raise DicomReadError(f"{name}: expected a DICOM file, got one without the 'DICM' prefix.") from None
    except MemoryError:
        raise DicomReadError(f"{name}: expected memory to decode it, got too little. Make it smaller.") from None
    except OSError as error:
        raise DicomReadError(f"{name}: cannot be read ({error.strerror or 'it ends too early'}).") from None
    except BaseException as error:  # a parser fed with damaged bytes may raise anything
        # pylibjpeg's RLE decoder is written in Rust; its panic is not derived from Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        words = (word.removesuffix("Values") for word in re.findall(r"[A-Z]\w+", str(error)))  # as highdicom says
        damaged = next((word for word in words if tag_for_keyword(word) is not None), "content")
        reason = plain_reason(error, otherwise=f"its {damaged} is damaged")
        raise DicomReadError(f"{name}: cannot be decoded ({reason}). Repair the file or leave it out.") from None
