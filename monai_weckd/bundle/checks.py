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

"""Checks that a bundle runs before training starts: unused keys, unknown arguments, readable errors."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from itertools import pairwise
from pathlib import Path
from pydoc import locate
from types import TracebackType
from typing import Any, get_type_hints

import torch
from monai.bundle import ComponentLocator, ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties
from monai.utils import BundlePropertyConfig

from monai_weckd.bundle.output import check_output_dir
from monai_weckd.utils.errors import first_cause, is_refusal
from monai_weckd.utils.messages import nearest
from monai_weckd.utils.options import check_value

__all__ = [
    "accepted_arguments",
    "calling_parser",
    "check_key",
    "check_run",
    "check_types",
    "check_values",
    "refuse_unused_keys",
    "show_cause_last",
    "unknown_arguments",
    "unused_keys",
]


_REFERENCE = re.compile(r"[@%]([\w:#]+)")


# MONAI, or a program that runs a bundle, reads these keys without an @ in the configuration
_READ_BY_MONAI = {
    "imports",
    "initialize",
    "run",
    "finalize",
    "save_execute_config",
    "displayable_configs",
    # monai.fl.client.MonaiAlgo sets it for each run
    "run_name",
}

# the types of the keys at the top of this package's bundles
_PATHS = {"dataset_dir": str, "output_dir": str, "split_file": str | None, "cache_dir": str | None}
_KEYS: dict[str, Any] = {
    **_PATHS,
    **dict.fromkeys(("overwrite", "resume"), bool),
    **dict.fromkeys(("seed", "num_stages", "max_epochs", "iterations_per_epoch", "val_interval"), int),
    **dict.fromkeys(("channels", "batch_size"), int),
    **dict.fromkeys(("label_fraction", "learning_rate", "distillation_weight"), float),
    **dict.fromkeys(("val_fraction", "test_fraction", "distillation_weight_end"), float | None),
    "spatial_size": list,
}
_WORDS = {"true": True, "false": False, "null": None}


def _places(config: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every string in a nested configuration."""
    if isinstance(config, str):
        yield place, config
    elif isinstance(config, (dict, list)):
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            yield from _places(value, f"{place}#{key}" if place else str(key))


def unused_keys(config: dict[str, Any]) -> dict[str, str]:
    """Return the unused keys of a bundle's configuration, each with a hint at the intended key.

    A key is used if a reference (``@key``) or macro (``%key``) names it, if it is one of MONAI's bundle properties, or
    if its name begins with an underscore. The check includes the members of a group without ``_target_``, such as
    ``train``.

    Args:
        config: the merged content of the configuration files and overrides.

    Example::

        >>> unused_keys({"run": ["$print(@seed)"], "seed": 0, "sed": 1})
        {'sed': "Did you mean 'seed'?"}

    """
    read = {name for _, text in _places(config) for name in _REFERENCE.findall(text)}
    for properties in (TrainProperties, InferProperties):
        read |= {str(value[BundlePropertyConfig.ID]) for value in properties.values()}
    read = {name.replace("::", "#") for name in read} | _READ_BY_MONAI
    parents = {name.rsplit("#", depth)[0] for name in read for depth in range(1, name.count("#") + 1)}
    known = sorted(read | parents)
    unused = {}
    for key, value in config.items():
        is_group = isinstance(value, dict) and "_target_" not in value and key in parents
        for name in [f"{key}#{member}" for member in value] if is_group else [key]:
            if name not in known and not name.rsplit("#", 1)[-1].startswith("_"):
                unused[name] = nearest(
                    name, [other for other in known if other in parents or "#" in name or "#" not in other]
                )
    return unused


def accepted_arguments(target: str, locator: ComponentLocator) -> tuple[str, ...] | None:
    """Return the names of the arguments that a component takes, or None if it takes any or its signature is unknown.

    Args:
        target: its ``_target_``.
        locator: finds the components of MONAI by their names.

    """
    try:
        parameters = inspect.signature(_find(target, locator)).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):  # an expression, or not callable
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return tuple(parameter.name for parameter in parameters)


def _find(target: str, locator: ComponentLocator) -> object | None:
    """Return a component by its ``_target_``, None if there is none."""
    module = locator.get_component_module_name(target)
    return locate(f"{module}.{target}" if isinstance(module, str) else target)


def unknown_arguments(config: Any, locator: ComponentLocator, place: str = "") -> dict[str, str]:
    """Return the places of arguments that their component does not take, each with a hint at the intended name.

    Args:
        config: a configuration, or a part of it.
        locator: finds the components of MONAI by their names.
        place: the place of that part in the whole configuration.

    """
    found: dict[str, str] = {}
    if isinstance(config, dict):
        names = accepted_arguments(config["_target_"], locator) if "_target_" in config else None
        for key, value in config.items():
            if names is not None and key not in names and not key.startswith("_"):
                found[f"{place}#{key}"] = nearest(key, names)
            found |= unknown_arguments(value, locator, f"{place}#{key}" if place else key)
    elif isinstance(config, list):
        for number, value in enumerate(config):
            found |= unknown_arguments(value, locator, f"{place}#{number}")
    return found


def check_values(config: dict[str, Any], locator: ComponentLocator) -> None:
    """Refuse values of another type than their key's: those of this package's bundles, and of options of a dataclass.

    Args:
        config: the merged content of the configuration files and overrides.
        locator: finds the components of MONAI by their names.

    Raises:
        ValueError: When a value has another type, or a path holds a separator of MONAI's keys.

    """
    for key, value in config.items():
        check_key(key, value)
    for place, component in _components(config):
        hints = _typed_fields(component)
        for key in hints.keys() & component.keys():
            if not _is_expression(component[key]):
                check_value(f"{place}#{key}", component[key], hints[key])


def _typed_fields(component: Mapping[str, Any]) -> dict[str, Any]:
    """Return the types of the fields of a component that is a dataclass of this package; none for any other."""
    kind = locate(component["_target_"]) if component["_target_"].startswith("monai_weckd.") else None
    return get_type_hints(kind) if isinstance(kind, type) and is_dataclass(kind) else {}


def check_key(key: str, value: Any) -> None:
    """Refuse a value of another type than that of a key at the top of this package's bundles.

    Args:
        key: the key; any other is accepted.
        value: its value; expressions and references are accepted.

    Raises:
        ValueError: When the value has another type, or a path holds a separator of MONAI's keys.

    """
    if key == "device" and isinstance(value, str) and not _is_expression(value):
        _check_device(value)
    if key not in _KEYS or _is_expression(value):
        return
    check_value(key, value, _KEYS[key])
    # MONAI replaces one separator by the other in every text of a configuration
    if key in _PATHS and value is not None and ("#" in str(value) or "::" in str(value)):
        raise ValueError(
            f"{key}: expected a path without # and ::, which MONAI takes for separators of keys, "
            f"got {value!r}. Use another path."
        )


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(
            f"device: expected a device that PyTorch finds here, got {name!r} ({reason}). Pass cpu or cuda:0."
        ) from None


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def _components(config: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(config, dict):
        if isinstance(config.get("_target_"), str):
            yield place, config
        for key, value in config.items():
            yield from _components(value, f"{place}#{key}" if place else key)
    elif isinstance(config, list):
        for number, value in enumerate(config):
            yield from _components(value, f"{place}#{number}")


def check_run() -> None:
    """Check a run of ``monai.bundle`` before it starts; call this first in ``run``.

    It refuses mistyped keys, references and components, values of another type, and an output folder that is
    not empty. It makes the traceback of an error end with the line that says what to do. Programs that train within
    their own process make these checks themselves and skip ``run``.

    Raises:
        RuntimeError: When it is called from outside a configuration.
        ValueError: When nothing reads a key, its value has another type, or it names a key or a component that does
            not exist.
        FileExistsError: When ``output_dir`` holds files; see ``check_output_dir``.

    """
    show_cause_last()
    refuse_unused_keys()
    parser, locator = calling_parser("check_run"), ComponentLocator()
    check_values(parser.get(), locator)
    _check_references(parser)
    _check_targets(parser.get(), locator)
    if {"output_dir", "overwrite", "resume"} <= parser.get().keys():
        output_dir, overwrite, resume = map(parser.get_parsed_content, ("output_dir", "overwrite", "resume"))
        check_output_dir(output_dir, overwrite=overwrite, resume=resume)


def _check_references(parser: ConfigParser) -> None:
    """Refuse references to keys that the configuration does not have."""
    for place, text in _places(parser.get()):
        # MONAI writes the separator as :: while it evaluates
        for name in _REFERENCE.findall(text.replace("::", "#")) if _is_expression(text) else ():
            if name not in parser:
                group = name.rpartition("#")[0]
                members = parser[group] if group and group in parser else parser.get()
                prefix = f"{group}#" if members is not parser.get() else ""
                names = [f"{prefix}{key}" for key in members] if isinstance(members, dict) else []
                raise ValueError(
                    f"{place}: expected a reference to a key of the configuration, got {name!r}. {nearest(name, names)}"
                )


def _check_targets(config: dict[str, Any], locator: ComponentLocator) -> None:
    """Refuse components that cannot be found."""
    for place, component in _components(config):
        target = component["_target_"]
        if _is_expression(target) or component.get("_disabled_") is True or _find(target, locator) is not None:
            continue
        module = locate(target.rpartition(".")[0]) if "." in target else None
        names = [name for name in dir(module) if not name.startswith("_")] if module is not None else []
        hint = nearest(target.rpartition(".")[2], names) if names else "Correct it, or install its package."
        raise ValueError(f"{place}#_target_: expected a component that can be imported, got {target!r}. {hint}")


def check_types() -> None:
    """Refuse values of another type before any of them is used; call this first in ``initialize``.

    ``true``, ``false`` and ``null``, which MONAI's command line passes on as text, are read as in JSON if the
    type allows it. The traceback of any later error ends with the line that says what to do.

    Raises:
        RuntimeError: When it is called from outside a configuration.
        ValueError: When a value has another type than its key's.

    """
    show_cause_last()
    parser = calling_parser("check_types")
    _refuse_none(parser)
    _read_words(parser)
    check_values(parser.get(), ComponentLocator())


def _refuse_none(parser: ConfigParser) -> None:
    """Refuse ``--key None`` on the command line of ``monai.bundle``, which takes it for a key that was left out."""
    if Path(sys.argv[0]).parts[-3:-1] != ("monai", "bundle"):
        return
    words = [part for word in sys.argv[1:] for part in word.split("=", maxsplit=1)]
    for key, value in pairwise(words):
        name = key.removeprefix("--")
        if value == "None" and name != key and name.partition("#")[0] in parser:
            raise ValueError(
                f"{name}: expected a value, got None, which MONAI's command line ignores. "
                "Write null where that is meant, or leave the key out."
            )


def _read_words(parser: ConfigParser) -> None:
    """Replace the words of JSON by their values, in keys and fields that have a type."""
    config = parser.get()
    places = [("", config, _KEYS)]
    places += [(f"{place}::", component, _typed_fields(component)) for place, component in _components(config)]
    for place, holder, types in places:
        for key in types.keys() & holder.keys():
            word = holder[key]
            if isinstance(word, str) and word in _WORDS and _is_type(_WORDS[word], types[key]):
                holder[key] = _WORDS[word]
                # MONAI caches parsed values under keys of its own
                item = parser.ref_resolver.get_item(f"{place.replace('#', '::')}{key}")
                if item is not None:
                    item.update_config(holder[key])


def _is_type(value: Any, wanted: Any) -> bool:
    try:
        check_value("", value, wanted)
    except ValueError:
        return False
    return True


def refuse_unused_keys() -> None:
    """Stop a bundle run whose configuration holds a key that nothing reads, such as a mistyped override.

    ``monai.bundle`` adds a mistyped override as a new key and continues. Call this first in ``initialize``. An
    expression in a configuration cannot name the parser that evaluates it, so this function searches the call stack.

    Raises:
        RuntimeError: When it is called from outside a configuration.
        ValueError: When nothing reads a key.

    """
    config = calling_parser("refuse_unused_keys").get()
    unused = {**unused_keys(config), **unknown_arguments(config, ComponentLocator())}
    if unused:
        key, hint = next(iter(unused.items()))
        raise ValueError(f"{key}: expected a key that the configuration uses, got one that nothing reads. {hint}")


def calling_parser(name: str) -> ConfigParser:
    """Return the parser of the configuration whose expression is being evaluated.

    Args:
        name: name of the calling function, for the error message.

    Raises:
        RuntimeError: When no configuration is being evaluated.

    """
    frame = inspect.currentframe()
    while frame is not None:  # inspect.stack() would look for the source of each
        caller, frame = frame.f_locals.get("self"), frame.f_back
        if isinstance(caller, ConfigParser):
            return caller
    raise RuntimeError(f"{name}: expected to be called from a bundle's configuration, got another caller.")


def show_cause_last() -> None:
    """Print the line that says what to do last, after the traceback of an error that stops the program.

    A refusal in this package's form, ``name: expected ..., got ...``, says enough: its traceback is left out.
    ``monai.bundle`` wraps every error that an expression raises, so the last line of a traceback names an expression.
    This adds one line below it with the first error of the chain. Programs that catch their errors are not affected.
    """

    def report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        cause = first_cause(error)
        refused = is_refusal(cause)
        if not refused:
            sys.__excepthook__(kind, error, traceback)
        if refused or cause is not error:
            sys.stderr.write(f"\n{type(cause).__name__}: {cause}\n")

    sys.excepthook = report
