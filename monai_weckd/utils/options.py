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

"""Options that are declared once: the fields of frozen dataclasses, each with its help and its choices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import Field, field, fields
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from monai_weckd.utils.messages import nearest

__all__ = ["check_choices", "check_types", "check_value", "option", "option_names", "option_rows"]

_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", NoneType: "null"}


def option(default: Any, text: str, *, choices: Sequence[str] | None = None) -> Any:
    """Return a dataclass field with a help text for the command line and the documentation.

    Args:
        default: the default.
        text: what the option does, as a phrase without a full stop.
        choices: the values that it can take, default None: any of its type.

    """
    return field(default=default, metadata={"help": text, "choices": choices})


def check_choices(options: Any) -> None:
    """Refuse a value that is not among the choices of its option.

    Args:
        options: an instance of a dataclass whose fields :py:func:`option` made.

    Raises:
        ValueError: When a value is none of the choices.

    """
    for item in fields(options):
        valid, value = item.metadata["choices"], getattr(options, item.name)
        if valid is not None and value not in valid:
            raise ValueError(f"{item.name}: expected one of {valid}, got {value!r}. {nearest(value, valid)}")


def check_types(options: Any) -> None:
    """Refuse a value of another type than its option's.

    Args:
        options: an instance of a dataclass whose fields :py:func:`option` made.

    Raises:
        ValueError: When a value has another type, such as the text "false" for False.

    """
    for name, kind in get_type_hints(type(options)).items():
        check_value(name, getattr(options, name), kind)


def check_value(name: str, value: Any, kind: Any) -> None:
    """Refuse a value of another type. A float takes integers, too, and a tuple takes lists.

    Args:
        name: name of the value, for the error.
        value: the value.
        kind: its type: bool, int, float, str, a tuple, or a union of them and None.

    Raises:
        ValueError: When the value has another type.

    Example::

        >>> check_value("seed", 4, int)
        >>> check_value("seed", None, int)
        Traceback (most recent call last):
        ValueError: seed: expected an integer, got None. Correct the value.

    """
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if not any(_is_of(value, one) for one in kinds):
        words = " or ".join(_WORDS.get(one, "a list") for one in kinds)
        raise ValueError(f"{name}: expected {words}, got {value!r}. Correct the value.")


def _is_of(value: Any, kind: Any) -> bool:
    if kind not in _WORDS:
        return isinstance(value, (list, tuple))
    if isinstance(value, bool):
        return kind is bool
    # a path is accepted as text, and an integer as a float
    return isinstance(value, {float: (int, float), str: (str, os.PathLike)}.get(kind, kind))


def option_names(kind: Any) -> tuple[str, ...]:
    """Return the names of the options of a dataclass, in their order.

    Args:
        kind: the dataclass.

    """
    return tuple(item.name for item in fields(kind))


def option_rows(kind: Any) -> list[tuple[str, str, str]]:
    """Return name, default and help of each option of a dataclass, for a table in the documentation.

    Args:
        kind: the dataclass.

    """
    return [(item.name, repr(item.default), _help(item)) for item in fields(kind)]


def _help(item: Field[Any]) -> str:
    choices = item.metadata["choices"]
    return item.metadata["help"] + (f": {', '.join(choices)}" if choices else "")
