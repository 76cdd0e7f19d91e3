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

"""Which images belong to the same group, found without looking through all of them for each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_weckd.plan.splits import group_of

__all__ = ["Groups"]


class Groups:
    """An index of the groups in the last list of images that was asked about."""

    def __init__(self) -> None:
        self._index: tuple[Any, dict[str, list[str]]] = (None, {})

    def members(self, image_id: str, items: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Return the ids of all images of an image's group, in the order of the list.

        Args:
            image_id: id of the image.
            items: all images by their id; another list is another object.

        """
        listed, index = self._index
        if listed is not items:
            index = {}
            for key, item in items.items():
                index.setdefault(group_of(item), []).append(key)
            self._index = items, index
        return index[group_of(items[image_id])]
