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

"""Read and write the records of a chain: JSON sealed with a digest, and columns of predictions."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "EXPORT",
    "KIND",
    "OUT_OF_FOLD",
    "check_keys",
    "check_plain",
    "json_digest",
    "label_columns",
    "model_chain",
    "parse_json",
    "probability_classes",
    "probability_columns",
    "read_json",
    "read_probabilities",
    "read_sealed",
    "read_text",
    "sealed_json",
]

_LEVELS = 16
# out-of-fold predictions of a solved head, beside its model
OUT_OF_FOLD = "out_of_fold.csv"
# features of training images, beside the model of a frozen network
KIND = "kind.npz"
# what a model is, inside the file to which it was exported
EXPORT = "export.json"
_PROBABILITY = "probability_"
_LABEL = "label_"


def read_text(path: Path, *, errors: str = "strict") -> str:
    """Return the text in a file that a chain has written.

    Args:
        path: the file.
        errors: what to do with bytes that are not UTF-8, as for ``bytes.decode``.

    Raises:
        ValueError: When the file is missing or is not text.

    """
    if not path.is_file():
        raise ValueError(
            f"output_dir: expected the file {path.name} in {path.parent}, got none."
            " Give the output folder of a finished chain run."
        )
    try:
        return path.read_bytes().decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: expected UTF-8 text, got {error}. Write the file again.") from error


def read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Return the object in a file that a chain has written.

    Args:
        path: the file.
        keys: keys that it must have.

    Raises:
        ValueError: When it is not there, not JSON, or lacks a key.

    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: expected JSON, got {error}. Write the file again.") from error
    check_keys(content, keys, where=path.name)
    return dict(content)


def read_sealed(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Return the object in a file of :py:func:`monai_weckd.utils.sealed_json`.

    Args:
        path: the file.
        keys: keys that it must have.

    Raises:
        ValueError: When it is not there, not JSON, lacks a key, or has another content than was written.

    """
    content = read_json(path, (*keys, "digest"))
    if content["digest"] != json_digest({key: value for key, value in content.items() if key != "digest"}):
        raise ValueError(f"{path.name}: expected the content of its digest, got a changed one. Write the file again.")
    return content


def probability_columns(classes: Iterable[str]) -> list[str]:
    """Return the columns with the probabilities of classes in a table of predictions.

    Args:
        classes: class names.

    """
    return [f"{_PROBABILITY}{name}" for name in classes]


def label_columns(findings: Iterable[str]) -> list[str]:
    """Return the columns that say whether findings are present, in a table of predictions.

    Args:
        findings: names of the findings.

    """
    return [f"{_LABEL}{name}" for name in findings]


def probability_classes(row: Iterable[str]) -> list[str]:
    """Return the classes whose probabilities a table of predictions has, in the order of their columns.

    Args:
        row: names of the columns, or a row by column name.

    """
    return [column.removeprefix(_PROBABILITY) for column in row if column.startswith(_PROBABILITY)]


def read_probabilities(row: Mapping[str, Any], classes: Iterable[str]) -> list[float]:
    """Return the probabilities of classes in a row of a table of predictions.

    Args:
        row: the row by column name.
        classes: class names.

    Raises:
        ValueError: When a value is no number.

    Example::

        >>> read_probabilities({"id": "1.png", "probability_ill": "0.25", "probability_well": "0.75"}, ["well", "ill"])
        [0.75, 0.25]

    """
    return [float(row[column]) for column in probability_columns(classes)]


def check_keys(record: Any, keys: Sequence[str], *, where: str) -> None:
    """Refuse a value that is not an object with these keys.

    Args:
        record: a value from a JSON file.
        keys: the keys.
        where: its place, for the error.

    Raises:
        ValueError: When it is something else, or lacks a key.

    """
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected an object, got {type(record).__name__}. Write the file again.")
    missing = [key for key in keys if key not in record]
    if missing:
        raise ValueError(f"{where}: expected the key {missing[0]!r}, got none. Write the file again.")


def parse_json(content: str | bytes, *, where: str) -> Any:
    """Parse JSON from a client, and refuse values that other programs could not read again.

    Args:
        content: the JSON.
        where: its place, for the error.

    Raises:
        ValueError: When it is not JSON, or :py:func:`check_plain` refuses it.

    Example::

        >>> parse_json('{"note": "sure"}', where="params")
        {'note': 'sure'}

    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected JSON, got something else ({error}). Correct it.") from None
    check_plain(value, where=where)
    return value


def check_plain(value: Any, *, where: str) -> None:
    """Refuse a value that Python reads as JSON, but that other programs do not.

    Args:
        value: lists, dictionaries, texts, numbers, truth values and None.
        where: its place, for the error.

    Raises:
        ValueError: When it has NaN or an infinity, half of a surrogate pair, another type, or too many levels.

    """
    level, values = 0, [value]
    while values:
        if level > _LEVELS:
            raise ValueError(f"{where}: expected JSON of at most {_LEVELS} levels, got more. Make it flatter.")
        for one in values:
            _check_scalar(one, where)
        inner = [one for one in values if isinstance(one, (dict, list))]
        values = [part for one in inner for part in ([*one, *one.values()] if isinstance(one, dict) else one)]
        level += 1


def _check_scalar(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: expected finite numbers, got {value}. JSON has no such number: leave it out.")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{where}: expected text in Unicode, got half of a surrogate pair. Correct it.")
    if value is not None and not isinstance(value, (dict, list, str, bool, int, float)):
        raise ValueError(f"{where}: expected a value of JSON, got {type(value).__name__}. Correct it.")


def model_chain(model: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the content of ``chain.json`` beside a model, or None if there is no such file.

    Args:
        model: a file with a ``state_dict``.

    Raises:
        ValueError: When the file was changed, or belongs to another model.

    """
    path = Path(model).with_name("chain.json")
    if not path.is_file():
        return None
    chain = read_sealed(path, ("classes", "settings", "preprocessing", "stages", "final"))
    check_keys(chain["final"], ("stage",), where="chain.json: final")
    for stage in chain["stages"]:
        check_keys(stage, ("stage",), where="chain.json: stages")
    known = [record.get("sha256") for record in (chain["final"], *chain["stages"])]
    if hashlib.sha256(Path(model).read_bytes()).hexdigest() not in known:
        raise ValueError(
            f"{model}: expected a model of the chain.json beside it, got another one. "
            "Put the chain.json of its own training there: it has the order of the classes."
        )
    return chain


def json_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of an object, in hexadecimal.

    Args:
        content: the object; its keys are text.

    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed_json(content: Mapping[str, Any], *, indent: int) -> str:
    """Return an object as JSON that contains its digest, so that readers can detect changes.

    Args:
        content: the object.
        indent: spaces for each level.

    """
    return json.dumps({**content, "digest": json_digest(content)}, indent=indent) + "\n"
