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

"""Read selected elements of a DICOM header."""

from __future__ import annotations

import warnings
from pathlib import Path

from pydicom import dcmread

from monai_weckd.data.dicom.errors import named_errors

__all__ = ["read_header"]


def read_header(path: Path, *keywords: str, name: str | None = None) -> tuple[str, ...]:
    """Return the text of some elements of a DICOM file, empty for absent ones; the rest of the header is not kept.

    Args:
        path: the file.
        keywords: keywords of the elements.
        name: name of the file in errors, default None: its path.

    Raises:
        DicomReadError: When the file is not DICOM.

    """
    with warnings.catch_warnings(), named_errors(name or str(path)):
        # pydicom's warnings quote values that violate the standard, which may identify a patient
        warnings.simplefilter("ignore", UserWarning)
        header = dcmread(path, specific_tags=list(keywords), stop_before_pixels=True)
        return tuple(str(header.get(keyword) or "").strip() for keyword in keywords)
