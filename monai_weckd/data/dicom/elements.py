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

from pathlib import Path

from pydicom.filereader import read_partial
from pydicom.tag import Tag

from monai_weckd.data.dicom.codestream import open_dicom
from monai_weckd.data.dicom.errors import named_errors
from monai_weckd.utils.budget import budgeted

__all__ = ["read_header"]


@budgeted
def read_header(path: Path, *keywords: str, name: str | None = None) -> tuple[str, ...]:
    """Return the text of some elements of a DICOM file, empty for absent ones; reading ends after the last of them.

    Args:
        path: the file.
        keywords: keywords of the elements.
        name: name of the file in errors, default None: its path.

    Raises:
        DicomReadError: When the file is not DICOM.

    """
    tags = [Tag(keyword) for keyword in keywords]
    with named_errors(name or str(path)), open_dicom(path) as file:
        # elements are in the order of their tags
        header = read_partial(file, lambda tag, *_: tag > max(tags), specific_tags=[*tags])
        return tuple(str(header.get(keyword) or "").strip() for keyword in keywords)
