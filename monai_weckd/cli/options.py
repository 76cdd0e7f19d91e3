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

"""Shared command-line helpers: options from dataclass fields, and the values of ``--set``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from monai_weckd.utils.options import option_names, option_rows

__all__ = [
    "add_changes",
    "add_fields",
    "add_model",
    "given_fields",
    "parse_changes",
    "parse_names",
    "parse_value",
    "split_assignment",
]


def add_changes(parser: argparse.ArgumentParser, name: str = "train.json") -> None:
    """Add ``--config_file`` and ``--set``, which change the configuration of a bundle.

    Args:
        parser: parser of a command.
        name: the file that they change.

    """
    add = parser.add_argument
    add("--config_file", nargs="+", default=[], metavar="OVERLAY", help=f"files to merge into {name}")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="set a value of the configuration; repeatable")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--bundle``, ``--ckpt``, ``--config_file`` and ``--set``, which name a trained model.

    Args:
        parser: parser of a command.

    """
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle's folder")
    parser.add_argument("--ckpt", type=Path, help="the model (default: ckpt_path of the bundle's inference.json)")
    add_changes(parser, "inference.json")


def add_fields(parser: argparse.ArgumentParser, kind: Any) -> None:
    """Add each field of an options dataclass to a parser as ``--name``, with its type, help and default.

    An option that is not given is absent from the parser's result, because a bundle's value takes precedence over the
    default. The dataclass itself checks ranges.

    Args:
        parser: parser of a command.
        kind: the dataclass; :py:func:`monai_weckd.utils.options.option` must have created its fields.

    """
    types, defaults = get_type_hints(kind), {item.name: item.default for item in fields(kind)}
    for name, _, text in option_rows(kind):
        default = "" if defaults[name] is None else f" (default: {_shown(defaults[name])})"
        parser.add_argument(
            f"--{name}",
            type=_reader(types[name]),
            default=argparse.SUPPRESS,
            metavar="true|false" if types[name] is bool else None,
            help=f"{text}{default}".replace("%", "%%"),
        )


def given_fields(args: argparse.Namespace, kind: Any) -> dict[str, Any]:
    """Return the options of a dataclass that were given on the command line, by name.

    Args:
        args: the parser's result.
        kind: the dataclass.

    """
    return {name: getattr(args, name) for name in option_names(kind) if name in args}


def parse_changes(assignments: Sequence[str]) -> dict[str, Any]:
    """Return the values that ``--set`` sets, by key.

    Args:
        assignments: the arguments, each ``KEY=VALUE``.

    Raises:
        ValueError: When an argument does not have this form.

    """
    return {key: parse_value(text) for key, text in map(split_assignment, assignments)}


def parse_names(text: str) -> list[str]:
    """Return names that commas separate.

    Args:
        text: of the command line.

    Example::

        >>> parse_names("north, south")
        ['north', 'south']

    """
    return [name.strip() for name in text.split(",")]


def split_assignment(text: str) -> tuple[str, str]:
    """Return key and value of ``KEY=VALUE``, as ``--set`` takes it.

    Args:
        text: the argument.

    Raises:
        ValueError: When there is no key or no equals sign.

    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"set: expected KEY=VALUE, got {text!r}. Write for example --set batch_size=8.")
    return key, value


def parse_value(text: str) -> Any:
    """Return the value of a text in JSON; text that is not JSON is returned unchanged.

    Args:
        text: the value of an option.

    Example::

        >>> parse_value("8"), parse_value("[1, 2]"), parse_value("auto")
        (8, [1, 2], 'auto')

    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _reader(kind: Any) -> Callable[[str], Any]:
    """Return the function that parses a value of a type; types other than bool, int, float and str are read as JSON."""
    if kind is bool:
        return _boolean
    return kind if kind in (int, float, str) else parse_value


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
