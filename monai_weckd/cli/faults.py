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

"""The lines in which commands show what they could not take."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["print_faults"]

_SHOWN = 10


def print_faults(faults: Sequence[str], *, more: str = "") -> None:
    """Print a line for each of the first faults, and one for the number of the others.

    Args:
        faults: the faults.
        more: text after that number, such as where the others are. Default "".

    Example::

        >>> print_faults(["1.png: cannot be decoded"])
        bad     1.png: cannot be decoded

    """
    for fault in faults[:_SHOWN]:
        print(f"bad     {fault}")
    if len(faults) > _SHOWN:
        print(f"bad     and {len(faults) - _SHOWN} more{more}")
