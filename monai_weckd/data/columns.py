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

"""Recognize the columns of a manifest by their titles, and refuse those that look like an absent one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from monai_weckd.data.names import clean_text, is_missing, plain_key
from monai_weckd.data.split_file import split_name

__all__ = ["FINDING", "REQUIRED", "Line", "column_values", "find_columns", "finding_titles", "further_column"]

REQUIRED = ("file", "label")
_COLUMNS = (*REQUIRED, "group", "split")
FINDING = "finding:"  # begins the title of a column that says whether an image shows a finding

# spellings that are taken, as `plain_key` gives them
_PERSONS = ("group", "patient", "subject", "participant")
_NUMBERS = (
    *("", "s", "id", "ids", "no", "nr", "num", "number", "code", "key", "uid", "uuid", "hash", "index", "idx"),
    *("identifier", "pseudonym"),
)
_TAKEN = {
    "file": frozenset(("file", "files", "filename", "filenames", "filepath", "filepaths")),
    "label": frozenset(("label", "labels")),
    "group": frozenset(
        (
            *(person + number for person in _PERSONS for number in _NUMBERS),
            *(number + person for person in _PERSONS[1:] for number in ("id", "code", "key")),
        )
    ),
    "split": frozenset(("split", "splits", "splitname", "datasplit", "datasetsplit", "traintestsplit", "splitset")),
}
# a column with the names of all findings of an image
_FINDINGS = frozenset(("findings", "findinglabels"))
# what a comparison or an audit reads, or a training on studies or series
_FURTHER = {
    "fold": frozenset(("fold", "folds", "kfold", "cvfold", "foldid")),
    "scanner": frozenset(("scanner", "scanners")),
    "site": frozenset(("site", "sites")),
    "sex": frozenset(("sex", "gender")),
    "age": frozenset(("age", "ages")),
    **{
        level: frozenset(
            (*(level + number for number in _NUMBERS), *(level + uid for uid in ("instanceuid", "instanceid")))
        )
        for level in ("study", "series")
    },
}
# taken if a value is a split
_SPLIT_IF_SO = frozenset(
    (
        *("subset", "subsetname", "partition", "partitionname", "set", "setname", "settype", "phase", "usage"),
        *("dataset", "fold", "mode", "traintest", "traintestval", "trainvaltest", "tvt"),
    )
)
# a split of another time
_FORMER = ("original", "orig", "old", "source", "previous", "former")
# spellings that may be meant
_NEAR = {
    "group": ("group", "groups", "patient", "patients", "patientid", "subject", "subjectid"),
    "split": ("split", "splits"),
}
# a column whose last word is one of these may tell patients apart, unless its first word says what else it numbers
_ID_WORDS = frozenset(("id", "ids", "uid", "uuid", "guid", "pid", "eid", "mrn", "case"))
_OTHER_THINGS = frozenset(
    (
        *("image", "img", "file", "label", "class", "category", "site", "center", "centre", "hospital", "device"),
        *("scanner", "camera", "reader", "rater", "annotator", "dataset", "source", "batch", "fold", "diagnosis"),
    )
)
# what several images may show, by itself or with a number: "person", "donor no", "caseid"
_SHOWN = (
    *("person", "individual", "donor", "sub", "subj", "pat", "pt", "proband", "volunteer", "client", "animal", "mouse"),
    *("rat", "dog", "cat", "cow", "sheep", "horse", "pig", "owner", "family", "household", "twin", "pseudonym"),
    *("accession", "specimen", "biopsy", "slide", "video", "clip", "case", "nhs", "ssn", "empi", "uhid", "mrn"),
)
_NUMBERED = (
    *(*_SHOWN, "record", "medicalrecord", "mr", "chart", "hospital", "hosp", "study", "exam", "encounter", "lesion"),
    "nodule",
)
# numbers of these may count them for each patient
_COUNTED = ("sample", "visit", "scan", "series", "eye")
_SHOWN_KEY = re.compile(
    rf"(?:{'|'.join(_SHOWN)})(?:s|name)?|(?:{'|'.join(_NUMBERED)})(?:{'|'.join(filter(None, _NUMBERS))})"
    rf"|(?:{'|'.join(_COUNTED)})u?id"
    # and in other languages
    r"|(?:patient|pa[cz]iente?|proband|probant|subje[ck]t|sujet)(?:e?n|in|innen)?"
    r"(?:id|nr|nummer|num|numero|no|code|name)?"
    r"|(?:患者|病人|환자|пациент)(?:id|番号|编号|编码|번호|код)?"
)
# words of a column that numbers patients, beside one for a patient: "patient_id_hash", "id_paciente"
_NUMBERING = frozenset((*_NUMBERS, "hashed", "anon", "anonymized", "anonymised", "pseudonymized", "unique", "global"))
_PATIENTS = frozenset((*_PERSONS[1:], "paciente", "paziente", "pat", "pt", "subj", "person"))


class Line(NamedTuple):
    """One line of a manifest.

    Args:
        number: of the line in the file.
        fields: its values.

    """

    number: int
    fields: list[str]


def find_columns(
    header: list[str], lines: Sequence[Line], manifest: str, *, required: Collection[str] = REQUIRED
) -> dict[str, int]:
    """Return the place of each column that is used, of "file", "label", "group" and "split".

    Args:
        header: the titles.
        lines: the other lines.
        manifest: name of the manifest, for errors.
        required: columns that must be there.

    Raises:
        ValueError: When a column is absent or ambiguous, or another one looks like an absent one.

    """
    places = {}
    for name in _COLUMNS:
        found = _places(name, header, lines)
        if len(found) > 1:
            titles = [header[place] for place in found]
            got = len(found) if len(set(titles)) == 1 else " and ".join(map(ascii, titles))
            raise ValueError(
                f"{manifest}, row 1: expected one column {name!r}, got {got}. Rename one."
                + (f" The column {name!r} itself takes precedence." if name not in titles else "")
            )
        if found:
            places[name] = found[0]
        elif name == "label" and name in required and finding_titles(header):
            raise ValueError(
                f"{manifest}, row 1: expected a column 'label' with one class an image, got findings. Pass "
                "findings=True, or use the bundle chest_xray_chain_classification."
            )
        elif name in required:
            others = [title for place, title in enumerate(header) if place not in places.values()]
            near = difflib.get_close_matches(name, others, n=1, cutoff=0.0)
            raise ValueError(
                f"{manifest}, row 1: expected a column {name!r}, got {len(header)} others, the nearest {near}. "
                "Rename or add it, and separate columns by commas."
            )
    _refuse_near(header, lines, places, manifest)
    return places


def finding_titles(header: Sequence[str]) -> list[str]:
    """Return the titles of the columns that hold findings; empty if there are none.

    Args:
        header: the titles of a manifest.

    Example::

        >>> finding_titles(["file", "finding:mass", "finding: edema"]), finding_titles(["file", "Finding Labels"])
        (['finding:mass', 'finding: edema'], ['Finding Labels'])

    """
    found = [title for title in header if title.casefold().startswith(FINDING)]
    return found or [title for title in header if plain_key(title) in _FINDINGS]


def further_column(name: str, header: Sequence[str], manifest: str) -> int | None:
    """Return the place of a column that not every training reads; None if there is none.

    Args:
        name: "fold", "scanner", "site", "sex", "age", "study" or "series".
        header: the titles.
        manifest: name of the manifest, for errors.

    Raises:
        ValueError: When there are several.

    """
    titles = [title for title in header if title == name] or [
        title for title in header if plain_key(title) in _FURTHER[name]
    ]
    if len(titles) > 1:
        raise ValueError(
            f"{manifest}, row 1: expected one column {name!r}, got {' and '.join(map(ascii, titles))}. Rename one."
        )
    return header.index(titles[0]) if titles else None


def column_values(place: int, lines: Iterable[Line]) -> list[str]:
    """Return the values of a column, without the missing ones.

    Args:
        place: of the column.
        lines: the lines below the header.

    """
    found = (clean_text(line.fields[place]) for line in lines if place < len(line.fields))
    return [value for value in found if not is_missing(value)]


def _places(name: str, header: list[str], lines: Sequence[Line]) -> list[int]:
    exact = [place for place, title in enumerate(header) if title == name]
    if exact:
        return exact
    found = [place for place, title in enumerate(header) if plain_key(title) in _TAKEN[name]]
    if name == "split" and not found:
        likely = (place for place, title in enumerate(header) if plain_key(title) in _SPLIT_IF_SO)
        found = [place for place in likely if any(map(split_name, column_values(place, lines)))]
    return found


def _refuse_near(header: list[str], lines: Sequence[Line], places: dict[str, int], manifest: str) -> None:
    """Refuse a column that looks like an absent one: without it, patients would leak or splits would be drawn anew."""
    for place, title in enumerate(header):
        values = [] if place in places.values() else column_values(place, lines)
        for name in ("group", "split"):
            if name in places or not values:
                continue
            if _is_near(plain_key(title), _NEAR[name]) or (
                _may_split(title, values)
                if name == "split"
                else _may_tell_patients_apart(title, values, places.get("label"), lines)
            ):
                raise ValueError(
                    f"{manifest}, row 1: expected a column {name!r} or nothing like it, got {title!a}. "
                    f"Rename it to {name!r} if that is what it is; otherwise add a column {name!r}, which may be empty."
                )


def _is_near(key: str, names: Iterable[str]) -> bool:
    """Return whether a key is a name with a letter too many, too few, or two in the wrong order."""
    return any(
        key[:1] == name[0]
        and abs(len(key) - len(name)) <= 1
        and difflib.SequenceMatcher(None, key, name).ratio() >= 0.8
        for name in names
    )


def _may_split(title: str, values: Sequence[str]) -> bool:
    """Return whether a column holds splits, or says of one split what is in it, such as ``is_train``."""
    key = plain_key(title)
    if key.startswith(_FORMER):
        return False
    return bool(split_name(key.removeprefix("is").removeprefix("in"))) or (
        len(set(values)) > 1 and all(map(split_name, values))
    )


def _may_tell_patients_apart(title: str, values: Sequence[str], label: int | None, lines: Sequence[Line]) -> bool:
    """Return whether a column names patients, or numbers something that several images share."""
    key = plain_key(title)
    if key.removesuffix("name") in _PERSONS:
        return True
    words = [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", title)]
    is_number = bool(words) and words[-1] in _ID_WORDS and words[0] not in _OTHER_THINGS
    is_person = bool(words) and (words[-1] in _PERSONS[1:] or _PATIENTS & set(words) >= set(words) - _NUMBERING)
    if not (is_number or is_person or _SHOWN_KEY.fullmatch(key)):
        return False
    return (1 if label is None else len(set(column_values(label, lines)))) < len(set(values)) < len(values)
