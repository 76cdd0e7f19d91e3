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

"""Compare the texts of a data list: labels, groups, file names."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

__all__ = ["clean_text", "fold_text", "is_missing", "is_unlabeled", "join_spellings", "plain_key", "spelled_as"]

# how programs write a cell without a value; "none" may be a class
_MISSING = frozenset(
    (
        *("", "nan", "NaN", "NAN", "NaT", "None", "NA", "N/A", "n/a", "<NA>", "null", "Null", "NULL", "?", "."),
        *("-nan", "-NaN", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
        *("#N/A", "#NA", "#N/A N/A", "#VALUE!", "#REF!", "#NAME?", "#NULL!", "#DIV/0!", "#NUM!"),
    )
)
# how folders and cells say that there is no label, as `plain_key` gives it
_UNLABELED = re.compile(r"(un|not?|without|missing)(label|annotat)(s|l?ed|ion|ions)?")
# letters that show nothing; other such characters are in the categories Cc and Cf
_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_VARIATIONS = range(0xFE00, 0xFE10)  # of how a letter is drawn
_WHOLE_NUMBER = re.compile(r"\+?(-?\d+)(?:\.0*)?")  # also as programs write it that keep numbers as floats
# Cyrillic letters that look like Latin ones, small or capital: a, v, e, k, m, n, o, r, s, t, u, kh, i, je, dze
_LOOK_ALIKES = str.maketrans(
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0456\u0458\u0455", "abekmhopctyxijs"
)
_APOSTROPHES = re.compile("[\u2018\u2019\u02bc\u2032`\u00b4]")


def clean_text(text: str) -> str:
    r"""Return a text in Unicode's form NFC, without white space and invisible characters around it.

    Args:
        text: a label, a group, or the name of a file.

    Example::

        >>> clean_text(" ill\u200b"), clean_text("le\u0301sion") == "l\u00e9sion"
        ('ill', True)

    """
    start, end = 0, len(text)
    while start < end and _is_blank(text[start]):
        start += 1
    while end > start and _is_blank(text[end - 1]):
        end -= 1
    return unicodedata.normalize("NFC", text[start:end])


def is_missing(text: str) -> bool:
    """Return whether a cell holds no value: it is empty, or ``nan``, ``None``, ``NA`` and the like.

    Args:
        text: a clean text.

    """
    return text in _MISSING


def is_unlabeled(text: str) -> bool:
    """Return whether the name of a class says that there is none, such as "unlabeled" or "not annotated".

    Args:
        text: a label, or the name of a class folder.

    Example::

        >>> is_unlabeled("Un-labelled"), is_unlabeled("unknown")
        (True, False)

    """
    return bool(_UNLABELED.fullmatch(plain_key(text)))


def fold_text(text: str) -> str:
    """Return what remains of a text without case, Unicode form, invisible characters, and runs of white space.

    Dashes and apostrophes are of one kind, an underscore is a space, digits are those of any script, and 1.0 is 1.
    Cyrillic letters become the Latin ones that they look like.

    Args:
        text: any text.

    """
    text = _APOSTROPHES.sub("'", text)  # one of them would be a space and an accent
    folded = unicodedata.normalize("NFKC", _without_invisible(text)).casefold()
    # of a Turkish capital letter, a dot remains
    folded = unicodedata.normalize("NFKC", folded).replace("i\u0307", "i").replace("_", " ").translate(_LOOK_ALIKES)
    folded = " ".join(folded.split())
    folded = "".join(map(_plain_letter, folded))
    found = _WHOLE_NUMBER.fullmatch(folded)
    return found[1] if found else folded


def plain_key(name: str) -> str:
    """Return the letters and digits of the name of a column, a folder or a split, without case.

    Args:
        name: the name.

    Example::

        >>> plain_key("Patient_ID"), plain_key("patient id")
        ('patientid', 'patientid')

    """
    return "".join(filter(str.isalnum, fold_text(name)))


def spelled_as(name: str, known: Iterable[str]) -> str:
    """Return the known name that differs only by case, white space, Unicode form or invisible characters.

    Args:
        name: a name.
        known: the names that there are.

    Returns:
        The known name; ``name`` itself if it is known, or if none or several are like it.

    Example::

        >>> spelled_as("normal ", ["Normal", "ill"]), spelled_as("well", ["Normal", "ill"])
        ('Normal', 'well')

    """
    known = list(known)
    alike = [other for other in known if fold_text(other) == fold_text(name)]
    return alike[0] if len(alike) == 1 and name not in known else name


def join_spellings(names: Iterable[str]) -> dict[str, str]:
    """Return the spelling to use for each of several names: of those that fold to the same text, the most frequent.

    Args:
        names: all names, each as often as it occurs; of equally frequent spellings, the first one counts.

    Example::

        >>> join_spellings(["Normal", "ill", "normal", "Normal"])
        {'Normal': 'Normal', 'ill': 'ill', 'normal': 'Normal'}

    """
    counts = Counter(names)
    usual: dict[str, str] = {}
    for name, _ in counts.most_common():
        usual.setdefault(fold_text(name), name)
    return {name: usual[fold_text(name)] for name in counts}


def _plain_letter(letter: str) -> str:
    kind = unicodedata.category(letter)
    return "-" if kind == "Pd" else str(unicodedata.decimal(letter)) if kind == "Nd" else letter


def _without_invisible(text: Iterable[str]) -> str:
    return "".join(letter for letter in text if letter.isspace() or not _is_blank(letter))


def _is_blank(letter: str) -> bool:
    if letter.isspace() or letter in _BLANK_LETTERS or ord(letter) in _VARIATIONS:
        return True
    return unicodedata.category(letter) in ("Cc", "Cf")
