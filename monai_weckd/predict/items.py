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

"""Group the images of a folder into the items of a model: series, studies or patients."""

from __future__ import annotations

from collections.abc import Sequence

from monai_weckd.data.item_level import PLURALS, level_name
from monai_weckd.data.keys import ImageKeys, KeyFinder

__all__ = ["ItemFinder"]


class ItemFinder:
    """Find the images of each series, study or patient, and its keys.

    Args:
        images: finds the keys of an image.
        paths: the images.
        level: "series", "study" or "patient". An image of which it is not known is an item of its own.

    Attributes:
        paths: the images of each item by its name, in the order of their first images.

    Raises:
        ValueError: When it is known of no image, or two have the same name.

    """

    def __init__(self, images: KeyFinder, paths: Sequence[str], level: str) -> None:
        self.paths: dict[str, list[str]] = {}
        self._keys: dict[str, ImageKeys] = {}
        self._images = images
        known = 0
        for path in paths:
            keys = images.find(path)
            names = keys.of(level)
            known += bool(names)
            name = level_name(names) or keys.file
            self.paths.setdefault(name, []).append(path)
            mine = ImageKeys(name, *(names or keys[1:]))
            if self._keys.setdefault(name, mine) != mine:
                raise ValueError(
                    f"input: expected {PLURALS[level]} with names of their own, got {name!r} for several, in which '/' "
                    "stands between patient, study and series. Rename one."
                )
        if not known:
            raise ValueError(
                f"input: expected images with a known {level}, as the model is of {PLURALS[level]}, got none of "
                f"{len(paths)}. Pass DICOM images, or a manifest.csv with a column "
                f"{'group' if level == 'patient' else level} beside the images."
            )

    def find(self, name: str) -> ImageKeys:
        """Return the keys of an item; ``file`` is its name.

        Args:
            name: a key of ``paths``.

        """
        return self._keys[name]

    def relative(self, text: str) -> str:
        """Return a text in which paths are those within the folder.

        Args:
            text: such as a fault.

        """
        return self._images.relative(text)
