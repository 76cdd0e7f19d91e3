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

"""Read the folder of an annotated chain: its students, and the labels that they have used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_weckd.annotation.shards import GivenLabels
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.utils.records import parse_json

__all__ = ["check_chain", "folder_state", "read_given", "remove_leftovers", "students_of"]


def check_chain(chain: Mapping[str, Any], output_dir: Path, kind: LabelKind, *, item_level: str) -> None:
    """Refuse a chain of another kind than the labels.

    Args:
        chain: content of its ``chain.json``.
        output_dir: its folder.
        kind: names of the classes or findings, which may be more than those of the chain.
        item_level: what has a label.

    Raises:
        ValueError: When it is of another kind or level, or its classes are not the first ones.

    """
    known = tuple(chain["classes"])
    if bool(chain.get("findings")) != kind.findings:
        raise ValueError(
            f"output_dir: expected a chain of {'findings' if kind.findings else 'classes'}, got another kind in "
            f"{output_dir}. Pass another folder, or the bundle of that chain."
        )
    if known != kind.names[: len(known)]:
        raise ValueError(
            f"output_dir: expected a chain of the classes {list(kind.names)}, got {chain['classes']} in {output_dir}. "
            "Pass another folder, or the classes of that chain; new ones come last."
        )
    level = chain["settings"].get("item_level", "image")
    if level != item_level:
        raise ValueError(
            f"output_dir: expected a chain of the item_level {item_level!r}, got {level!r} in {output_dir}. Pass "
            f"another folder, or --set datalist#item_level={level}."
        )


def read_given(path: Path) -> GivenLabels:
    """Return the labels that the stages have used; only they tell which groups are in validation permanently.

    Args:
        path: ``given.json``.

    Raises:
        ValueError: When there is none, or a damaged one.

    """
    try:
        return GivenLabels.from_dict(parse_json(path.read_bytes(), where="content"))
    except FileNotFoundError:
        got = "none"
    except (ValueError, KeyError, TypeError) as error:
        got = f"{type(error).__name__} ({error})"
    raise ValueError(
        f"{path}: expected the labels that each stage has used, got {got}. "
        "Restore the file from a copy, or begin a chain in another folder."
    )


def students_of(folder: Path) -> dict[str, Path]:
    """Return the files of the accepted students in a folder by their digests, in order; none before the first stage.

    Args:
        folder: output folder of the chain.

    """
    path = folder / "chain.json"
    stages = json.loads(path.read_text(encoding="utf-8"))["stages"] if path.is_file() else []
    # paths are built from this folder, not taken from the file: the chain may have been moved
    return {
        stage["sha256"]: folder / f"stage_{number}" / "model.pt"
        for number, stage in enumerate(stages, 1)
        if stage["accepted"]
    }


def folder_state(folder: Path) -> tuple[Any, ...]:
    """Return file states of a folder, which differ once somebody has written its chain or scores.

    Args:
        folder: output folder of the chain.

    """
    files = [folder / name for name in ("chain.json", "scores.npz")]
    return (folder, *(file.stat().st_mtime_ns if file.is_file() else None for file in files))


def remove_leftovers(chain: Path) -> None:
    """Remove the folders of interrupted and superseded stages.

    Args:
        chain: link to the folder of the last stage, which may be missing.

    """
    for folder in chain.parent.glob("chain_*"):
        if folder.name != chain.resolve().name:
            shutil.rmtree(folder)
