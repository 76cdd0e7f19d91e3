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

"""Count what a listing did not use, and summarize it in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from monai_weckd.utils.messages import printable

__all__ = ["PassedOver"]

_SHOWN = 8


@dataclass
class PassedOver:
    """What a listing found and did not use.

    Args:
        columns: columns of the manifest that nothing reads.
        files: number of files that are not images, by their suffix.
        missing: number of cells that were read as missing, by what they hold, such as "label 'nan'".
        spellings: number of labels and groups that were read in another spelling, by both spellings.
        notes: what else may be meant otherwise.

    """

    columns: list[str] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    spellings: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return all that was not used in one line; empty if everything was.

        Example::

            >>> PassedOver(["age"], Counter({".txt": 9, ".gif": 3})).text()
            'columns not used: age; files passed over: 12 (.txt 9, .gif 3)'

        """
        parts = []
        if self.columns:
            parts.append(f"columns not used: {_shown(map(printable, self.columns))}")
        counted = {
            "files passed over": self.files,
            "read as missing": self.missing,
            "spellings joined": self.spellings,
        }
        for kind, counts in counted.items():
            if counts:
                each = _shown(f"{printable(name)} {count}" for name, count in counts.most_common())
                parts.append(f"{kind}: {counts.total()} ({each})")
        return "; ".join([*parts, *self.notes])

    def joined(self, kind: str, name: str, other: str) -> str:
        """Count a name that is read as another spelling, and return the other one.

        Args:
            kind: "label" or "group".
            name: the name as it is written.
            other: the name as it is read.

        """
        if name != other:
            self.spellings[f"{kind} {name!a} as {other!a}"] += 1
        return other


def _shown(parts: Iterable[str]) -> str:
    every = list(parts)
    rest = len(every) - _SHOWN
    return ", ".join(every if rest <= 1 else [*every[:_SHOWN], f"and {rest} more"])
