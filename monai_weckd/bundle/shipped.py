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

"""The bundles that ship with the package: list them and copy them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from monai_weckd.utils.messages import nearest

__all__ = ["bundle_names", "copy_bundle"]

# training and the interpreter create these; they are not part of a bundle and not in the wheel
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "models", "output")


def bundle_names() -> list[str]:
    """Return the names of the bundles that ship with the package, in alphabetical order.

    Example::

        >>> bundle_names()[0]
        'blood_smear_chain_classification'

    """
    return sorted(path.parents[1].name for path in _home().glob("*/configs/train.json"))


def copy_bundle(name: str, folder: str | os.PathLike[str]) -> Path:
    """Copy a bundle that ships with the package to ``folder/name``, and return that path.

    Args:
        name: the bundle's name, one of :py:func:`bundle_names`.
        folder: the target folder; created if absent. The copy overwrites nothing.

    Raises:
        ValueError: When there is no such bundle.
        FileExistsError: When ``folder/name`` exists and is not an empty folder.

    """
    names, target = bundle_names(), Path(folder) / name
    if name not in names:
        raise ValueError(f"name: expected a bundle, got {name!r}. {nearest(name, names)}")
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise FileExistsError(
            f"to: expected a folder without {name}, got {target}, which is not empty. Pass another one."
        )
    source = _home() / name
    for root, folders, files in os.walk(source):
        left_out = _LEFT_OUT(root, [*folders, *files])
        folders[:] = [folder for folder in folders if folder not in left_out]
        into = target / Path(root).relative_to(source)
        # modes are the user's, by the umask, and not those of the installation
        into.mkdir(parents=True, exist_ok=True)
        for file in files:
            if file not in left_out:
                shutil.copyfile(Path(root, file), into / file)
    return target


def _home() -> Path:
    """Return the folder of the bundles: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "bundles"
    return installed if installed.is_dir() else package.parent / "bundles"
