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

"""What a site lacks, in the words that travel; they name no image and no folder."""

from __future__ import annotations

__all__ = ["LATE", "NOT_FINITE", "OTHER", "fault_of"]

LATE = "no answer in time"
NOT_FINITE = "weights that are not finite"
OTHER = "weights of another network or class list"


def fault_of(error: Exception) -> str:
    """Return what the server learns about an error; the rest stays in the site's log.

    Args:
        error: what was raised at the site.

    Example::

        >>> fault_of(ValueError("image of Smith"))
        'ValueError, see its log'

    """
    return f"{type(error).__name__}, see its log"
