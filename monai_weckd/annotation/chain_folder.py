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
from pathlib import Path
from typing import Any

from monai_weckd.annotation.shards import GivenLabels
from monai_weckd.utils.records import parse_json

__all__ = ["folder_state", "read_given", "remove_leftovers", "students_of"]


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
