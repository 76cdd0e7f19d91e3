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

"""A cache of one teacher's outputs by item and view."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["TeacherCache"]


class TeacherCache:
    """Cache one teacher's outputs by item and view, and run the teacher only for new pairs.

    The outputs are rows of two growing tensors on the device of the training: 4 C bytes of logits and, with attention
    transfer, 4 X Y bytes of the map for the attention loss, plus about 200 bytes of Python objects. The key of a stored
    output is its item and view seed, so the teacher always runs on a newly augmented item.

    Args:
        teacher: fingerprint of the teacher, see :py:func:`monai_weckd.networks.fingerprint`.

    """

    def __init__(self, teacher: str) -> None:
        self.teacher = teacher
        self.asked = 0
        self._rows: dict[tuple[int, int], int] = {}
        self._logits: torch.Tensor | None = None
        self._maps: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(
        self,
        indices: torch.Tensor,
        views: torch.Tensor,
        ask: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return logits, (B, C), and features, (B, 1, spatial dimensions) or None, of a batch.

        The features have one channel, the root of the sum of squares over the channels. Their attention map equals that
        of all channels, see :py:func:`monai_weckd.losses.attention_map`.

        Args:
            indices: indices of the items, (B,).
            views: their view seeds, (B,).
            ask: takes positions in the batch, and returns the teacher's logits and features for them.

        """
        keys = list(zip(indices.tolist(), views.tolist(), strict=True))
        new = {key: place for place, key in enumerate(keys) if key not in self._rows}
        if new:
            self._add(list(new), *ask(torch.tensor(list(new.values()))))
        if self._logits is None:
            raise ValueError("indices: expected at least one item, got none. Check the batch.")
        rows = torch.tensor([self._rows[key] for key in keys], device=self._logits.device)
        return self._logits[rows], None if self._maps is None else self._maps[rows]

    def state_dict(self) -> dict[str, Any]:
        """Return all outputs, because a teacher would round them differently if it ran again on other batches."""
        count = len(self._rows)
        stores = {"logits": self._logits, "maps": self._maps}
        return {
            "keys": torch.tensor(list(self._rows), dtype=torch.int64).reshape(count, 2),
            **{name: None if store is None else store[:count].clone() for name, store in stores.items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], *, device: torch.device | None = None) -> None:
        """Restore earlier outputs of the same teacher.

        Args:
            state_dict: result of :py:meth:`state_dict`.
            device: device to move them to, default None: keep their device.

        """
        self._rows = {tuple(key): row for row, key in enumerate(state_dict["keys"].tolist())}
        self.asked = len(self._rows)
        stores = (state_dict["logits"], state_dict["maps"])
        self._logits, self._maps = (None if store is None else store.to(device) for store in stores)

    def _add(self, keys: list[tuple[int, int]], logits: torch.Tensor, features: torch.Tensor | None) -> None:
        self.asked += len(keys)
        first = len(self._rows)
        self._logits = _put(self._logits, first, logits.as_subclass(torch.Tensor).float())
        if features is not None:
            squares = features.as_subclass(torch.Tensor).float().square()
            self._maps = _put(self._maps, first, squares.sum(dim=1, keepdim=True).sqrt())
        self._rows.update((key, first + number) for number, key in enumerate(keys))


def _put(store: torch.Tensor | None, first: int, rows: torch.Tensor) -> torch.Tensor:
    """Write rows after the ``first`` rows of a store; if there is no room, into a store of twice the size."""
    needed = first + len(rows)
    if store is None or len(store) < needed:
        larger = rows.new_empty(max(needed, 2 * first), *rows.shape[1:])
        if store is not None:
            larger[:first] = store[:first]
        store = larger
    store[first:needed] = rows
    return store
