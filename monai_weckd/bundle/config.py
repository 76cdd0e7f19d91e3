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

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["find_overlay", "training_files"]


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
