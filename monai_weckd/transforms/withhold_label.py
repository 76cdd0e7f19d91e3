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

"""Hide the labels of items that a plan has not revealed."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import CommonKeys

from monai_weckd.utils.enums import UNLABELED

__all__ = ["WithholdLabelD", "WithholdLabelDict", "WithholdLabeld"]


class WithholdLabeld(MapTransform):
    """Replace the label of every item with -1 ("unlabeled"), unless the label is revealed.

    With it, an ordinary MONAI pipeline trains on few labels and on images without labels, because the losses of this
    package skip -1. The type of a label stays the same. An item is identified by its ``id``, or else by its image path,
    as in a plan: place this transform before the one that loads the image. Other traces of a label stay, such as a
    folder in the path that is named after a class.

    Args:
        keys: keys of the labels.
        revealed: ids of the items whose labels stay, such as ``plan.stages[0].labeled``.
        allow_missing_keys: do not raise an exception if a key is missing. Default ``False``.

    Raises:
        TypeError: When ``revealed`` is one string in place of several.

    Example::

        >>> withhold = WithholdLabeld("label", revealed=["ear_1"])
        >>> withhold({"id": "ear_1", "label": 2})["label"], withhold({"id": "ear_2", "label": 2})["label"]
        (2, -1)

    """

    def __init__(self, keys: KeysCollection, revealed: Iterable[Hashable], *, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if isinstance(revealed, str):
            raise TypeError(f"revealed: expected several ids, got {revealed!r}. Pass a list.")
        self.revealed = frozenset(str(key) for key in revealed)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its labels withheld, unless they are revealed.

        Args:
            data: an item with its label, and an ``id`` or the path of its image.

        Raises:
            ValueError: When the item has neither an ``id`` nor the path of its image.
            TypeError: When a label is of a type that cannot hold -1.

        """
        d = dict(data)
        is_revealed = _known_by(d) in self.revealed
        for key in self.key_iterator(d):
            # computed for revealed labels as well, so that a type that cannot hold -1 fails on the first item
            withheld = _unlabeled(d[key], key)
            if not is_revealed:
                d[key] = withheld
        return d


def _known_by(item: Mapping[Hashable, Any]) -> str:
    """Return the id of an item, as in :py:func:`monai_weckd.data.stage_loader.training_items`."""
    key = item.get("id", item.get(CommonKeys.IMAGE))
    if "id" not in item and not isinstance(key, str | os.PathLike):
        raise ValueError(
            f"id: expected an id or the path of the image, got neither but {sorted(map(str, item))}. "
            "Give each item an id, or put WithholdLabeld in front of the loading."
        )
    return str(key)


def _unlabeled(label: Any, key: Hashable) -> Any:
    """Return -1 in the type of a label."""
    if label is None:
        return UNLABELED
    if isinstance(label, torch.Tensor) and label.dtype.is_signed:
        return torch.full_like(label, UNLABELED)
    if isinstance(label, np.ndarray) and label.dtype.kind in "if":
        return np.full_like(label, UNLABELED)
    if isinstance(label, int | float | np.signedinteger | np.floating) and not isinstance(label, bool):
        return type(label)(UNLABELED)
    name = getattr(label, "dtype", type(label).__name__)
    raise TypeError(f"{key}: expected a label that can be -1, got {name}. Turn class numbers into integers first.")


WithholdLabelD = WithholdLabelDict = WithholdLabeld
