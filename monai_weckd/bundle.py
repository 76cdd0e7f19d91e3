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

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties
from monai.utils import BundlePropertyConfig

from monai_weckd.data.row_store import content_key
from monai_weckd.utils.errors import first_cause
from monai_weckd.utils.messages import nearest

__all__ = [
    "PLACES",
    "describe_transforms",
    "find_overlay",
    "is_complete",
    "prepare_output_dir",
    "refuse_unused_keys",
    "run_settings",
    "show_cause_last",
    "training_files",
    "unused_keys",
]

logger = logging.getLogger(__name__)

_REFERENCE = re.compile(r"[@%]([\w:#]+)")
# read by MONAI itself or by programs that drive a bundle, without an @ in the configuration
_READ_BY_MONAI = {
    "imports",
    "initialize",
    "run",
    "finalize",
    "save_execute_config",
    "displayable_configs",
    # what monai.fl.client.MonaiAlgo names each run
    "run_name",
}
_TRACKED_CONFIG = re.compile(r"config_\d{8}_\d{6}\.json")
_CHAIN_OUTPUT = re.compile(
    r"((plan|datalist|chain|history)\.json|predictions\.csv|(model|checkpoint)\.pt)(\.part)?"
    r"|report\.html|stage_\d+|errors|tensorboard|mlruns.*"
)
_BEFORE_THE_PLAN = re.compile(r"plan\.json\.part|tensorboard|mlruns.*")
_READING = ("LoadImaged", "LoadMedicalImaged", "EnsureTyped")
# where things are, and how they are loaded, says nothing about what comes out
PLACES = frozenset(
    {
        "_meta_",
        "bundle_root",
        "dataset_dir",
        "output_dir",
        "cache_dir",
        "overwrite",
        "resume",
        "checkpoint_interval",
        "num_workers",
        "device",
    }
)
# what else may be another when a run goes on: what runs when, and MONAI's tracking
_NOT_A_SETTING = PLACES | {
    "imports",
    "initialize",
    "run",
    "finalize",
    "tracking_uri",
    "experiment_name",
    "run_name",
    "save_execute_config",
    "is_not_rank0",
}


def _strings(config: Any) -> Iterator[str]:
    """Go through every string in a nested configuration."""
    if isinstance(config, str):
        yield config
    elif isinstance(config, dict):
        for value in config.values():
            yield from _strings(value)
    elif isinstance(config, list):
        for value in config:
            yield from _strings(value)


def unused_keys(config: dict[str, Any]) -> dict[str, str]:
    """Return the keys of a bundle's configuration that nothing reads, each with a hint at the key that was meant.

    A key is read when a reference (``@key``) or macro (``%key``) names it, when it is one of MONAI's bundle
    properties, or when its name begins with an underscore. The members of a group without ``_target_``, such as
    ``train``, are looked at too.

    Args:
        config: the content of the configuration files and overrides, merged.

    Example::

        >>> unused_keys({"run": ["$print(@seed)"], "seed": 0, "sed": 1})
        {'sed': "Did you mean 'seed'?"}

    """
    read = {name for text in _strings(config) for name in _REFERENCE.findall(text)}
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


def refuse_unused_keys() -> None:
    """Stop a bundle run whose configuration holds a key that nothing reads, such as a mistyped override.

    ``monai.bundle`` adds a mistyped override as a new key and goes on. Call this first in ``initialize``. A
    configuration's expressions cannot name the parser that evaluates them, so it is looked up among the callers.

    Raises:
        RuntimeError: When it is called from outside a configuration.
        ValueError: When a key is read by nothing.

    """
    unused = unused_keys(_calling_parser("refuse_unused_keys").get())
    if unused:
        key, hint = next(iter(unused.items()))
        raise ValueError(f"{key}: expected a key that the configuration uses, got one that nothing reads. {hint}")


def _calling_parser(name: str) -> ConfigParser:
    """Return the parser of the configuration whose expression is being evaluated."""
    callers = (frame.frame.f_locals.get("self") for frame in inspect.stack(context=0))
    parser = next((caller for caller in callers if isinstance(caller, ConfigParser)), None)
    if parser is None:
        raise RuntimeError(f"{name}: expected to be called from a bundle's configuration, got another caller.")
    return parser


def run_settings(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return, from within a configuration, all that must be the same when an interrupted run goes on.

    These are the configuration's values by their places, as they are written, but for places of files, workers and
    the like; and a digest of the data list and of the bytes of its images, each of which is read once.

    Args:
        items: the data list.

    Raises:
        RuntimeError: When it is called from outside a configuration.

    """
    config = {key: value for key, value in _calling_parser("run_settings").get().items() if key not in _NOT_A_SETTING}
    archives: dict[str, str] = {}
    rows = [
        [item["id"], item["group"], item.get("split"), item["label"], content_key(item["image"], archives)]
        for item in items
    ]
    # labels go no further than into the digest
    content = hashlib.sha256(json.dumps(sorted(rows, key=str)).encode()).hexdigest()
    return {**dict(_leaves(config, "")), "images and their list": f"{len(rows)} items, digest {content[:16]}"}


def describe_transforms(place: str, parser: ConfigParser | None = None) -> list[Any]:
    """Return what a configuration does to an image once it is read, as values for JSON.

    Transforms that read the file or say what kind of tensor holds it are left out: they differ between programs, and
    change no value.

    Args:
        place: where the list of transforms is, each by its ``_target_``, such as "train#deterministic_transforms".
        parser: of the configuration, default None: of that from within which this is called.

    Raises:
        RuntimeError: When it is called from outside a configuration, without a parser.

    """
    parser = parser or _calling_parser("describe_transforms")

    def plain(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("@"):
            value = parser.get_parsed_content(value[1:])
        return json.loads(json.dumps(value, default=str))

    found = []
    for transform in parser[place]:
        name = transform["_target_"].rpartition(".")[2]
        if name not in _READING:
            found.append({**{key: plain(value) for key, value in transform.items()}, "_target_": name})
    return found


def training_files(bundle: str | os.PathLike[str], overlays: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the files that configure a bundle's training: its ``train.json``, and the overlays to merge into it.

    Args:
        bundle: the bundle's folder.
        overlays: paths, or names of files in ``configs``, in their order.

    Raises:
        ValueError: When a file is missing.

    """
    train = Path(bundle) / "configs" / "train.json"
    if not train.is_file():
        raise ValueError(f"bundle: expected configs/train.json in {os.fspath(bundle)!r}, got none. Pass a bundle.")
    return [train, *(find_overlay(Path(bundle), overlay) for overlay in overlays)]


def find_overlay(root: Path, overlay: str | os.PathLike[str]) -> Path:
    """Return the file of an overlay, given by its path or by its name in a bundle's ``configs``.

    Args:
        root: the bundle's folder.
        overlay: path or name.

    Raises:
        ValueError: When there is no such file.

    """
    for path in (Path(overlay), root / "configs" / overlay):
        if path.is_file():
            return path
    raise ValueError(
        f"config_file: expected a file, or the name of one in {root / 'configs'}, got {os.fspath(overlay)!r}. "
        "Correct the path."
    )


def _leaves(config: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Go through the values of a nested configuration, with their places such as "train#dataset#data"."""
    if isinstance(config, (dict, list)) and config:
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            yield from _leaves(value, f"{place}#{key}" if place else str(key))
    else:
        yield place, config


def show_cause_last() -> None:
    """Let an error that stops the program end, after its traceback, with the line that says what to do.

    ``monai.bundle`` wraps whatever a configuration's expressions raise, so that the last line of a traceback names an
    expression. This adds one line below it with the first error of the chain. It changes nothing for a program that
    catches its errors.
    """

    def report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, traceback)
        cause = first_cause(error)
        if cause is not error:
            sys.stderr.write(f"\n{type(cause).__name__}: {cause}\n")

    sys.excepthook = report


def prepare_output_dir(output_dir: str | os.PathLike, *, overwrite: bool = False, resume: bool = False) -> Path:
    """Make an empty folder for a run, and refuse to mix a run with an earlier one.

    With ``resume`` a complete run and one with a checkpoint stay as they are; one that came to no checkpoint begins
    anew.

    Args:
        output_dir: the folder; made if absent.
        overwrite: remove an earlier run's files first, default False. Only what a chain writes is removed.
        resume: whether to go on with an earlier run, default False.

    Raises:
        ValueError: When both ``overwrite`` and ``resume`` are True.
        FileExistsError: When the folder is not empty and ``overwrite`` is False.
        FileExistsError: When the folder holds anything that no chain wrote, even to overwrite.
        PermissionError: When the folder cannot be written to.

    """
    if overwrite and resume:
        raise ValueError("resume: expected False with overwrite, got True. Go on with the run, or remove it.")
    path = Path(output_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(
            f"output_dir: expected a folder to write to, got {path} ({error}). Pass another one."
        ) from error
    if not os.access(path, os.W_OK):
        raise PermissionError(
            f"output_dir: expected a folder to write to, got {path}, which is read-only. Pass another one."
        )
    # `--tracking` writes down the configuration before anything of it runs
    present = [entry for entry in path.iterdir() if not _TRACKED_CONFIG.fullmatch(entry.name)]
    if not present:
        return path
    if resume and ((path / "checkpoint.pt").exists() or is_complete(path)):
        return path
    begun = resume and ((path / "plan.json").exists() or all(_BEFORE_THE_PLAN.fullmatch(e.name) for e in present))
    if not overwrite and not begun:
        raise FileExistsError(
            f"output_dir: expected an empty folder, got {path} with {len(present)} entries. "
            "Pass another one, --resume true to go on with an interrupted run, or --overwrite true to remove it."
        )
    if not begun and not (path / "plan.json").exists():
        raise FileExistsError(
            f"output_dir: expected an earlier run to overwrite, got {path} without plan.json. Empty it yourself."
        )
    # if this is interrupted, too, what is left is neither a complete run nor of unknown origin
    order = {"predictions.csv": -1, "plan.json": 1}
    for entry in sorted(present, key=lambda entry: order.get(entry.name, 0)):
        if _CHAIN_OUTPUT.fullmatch(entry.name):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return path


def is_complete(output_dir: str | os.PathLike) -> bool:
    """Return, and say, whether a folder holds a complete run, of which nothing is left to be trained.

    Its checkpoint goes when everything else is written.

    Args:
        output_dir: the folder.

    """
    path = Path(output_dir)
    complete = (path / "predictions.csv").exists() and not (path / "checkpoint.pt").exists()
    if complete:
        logger.info("%s holds a complete run, there is nothing to train: pass another output_dir, or overwrite", path)
    return complete
