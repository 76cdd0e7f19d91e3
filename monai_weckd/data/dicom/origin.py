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

"""Read where a DICOM image comes from, without anything that identifies the patient."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from monai_weckd.data.dicom.elements import read_header
from monai_weckd.data.dicom.patients import header_file
from monai_weckd.data.names import clean_text

__all__ = ["Origin", "age_decade", "read_origin", "sex_name"]

_KEYWORDS = ("Manufacturer", "ManufacturerModelName", "InstitutionName", "PatientSex", "PatientAge")
_LENGTH = 64  # of a text that the standard allows; a damaged header may hold anything
_SEXES = {"m": "male", "male": "male", "f": "female", "female": "female", "o": "other", "other": "other"}
_AGE = re.compile(r"(\d{1,3}(?:\.\d+)?) ?(?:([dwmy])[a-z]*)?", re.IGNORECASE)
_IN_A_YEAR = {"d": 365.25, "w": 52.18, "m": 12.0, "y": 1.0}
_OLDEST = 90  # from this age up, people are so few that an age could identify them


class Origin(NamedTuple):
    """Where an image comes from; empty texts where its header does not say.

    Args:
        scanner: manufacturer and model.
        institution: name of the institution. It stays in memory: never write it.
        sex: "male", "female" or "other".
        age: a decade, see :py:func:`age_decade`.

    """

    scanner: str = ""
    institution: str = ""
    sex: str = ""
    age: str = ""


def read_origin(path: str | os.PathLike[str]) -> Origin:
    """Return where a DICOM image comes from; only the start of one header is read.

    Args:
        path: a file, the folder of a series, or a reference to one of several series in a folder; of anything else,
            nothing is known.

    """
    file = header_file(path)
    if file is None:
        return Origin()
    maker, model, institution, sex, age = (clean_text(text)[:_LENGTH] for text in read_header(file, *_KEYWORDS))
    scanner = model if model.casefold().startswith(maker.casefold()) else f"{maker} {model}".strip()
    return Origin(scanner, institution, sex_name(sex), age_decade(age))


def sex_name(text: str) -> str:
    """Return "male", "female" or "other"; empty if the text is not such a word or letter.

    Args:
        text: the text.

    """
    return _SEXES.get(text.casefold(), "")


def age_decade(text: str) -> str:
    """Return the decade of an age; empty if the text is not an age.

    Args:
        text: a number of years, or one with a unit, as DICOM has it.

    Example::

        >>> age_decade("045Y"), age_decade("7.5"), age_decade("018M"), age_decade("93"), age_decade("old")
        ('40 to 49', '0 to 9', '0 to 9', '90 or more', '')

    """
    found = _AGE.fullmatch(text)
    if found is None:
        return ""
    years = float(found[1]) / _IN_A_YEAR[(found[2] or "y").lower()]
    first = int(years // 10) * 10
    return f"{_OLDEST} or more" if first >= _OLDEST else f"{first} to {first + 9}"
