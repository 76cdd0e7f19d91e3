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

"""Notice that the images of a folder may have changed, without listing them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from monai_weckd.data.file_names import is_litter

__all__ = ["FolderWatch"]

# nanoseconds before a look within which a change may have the same time as an earlier one; some systems keep seconds
_UNSURE = 2 * 10**9


class FolderWatch:
    """The times of a folder, its subfolders and its tables: adding, renaming or deleting a file changes one of them.

    To compare them takes a system call for each folder, while a listing takes several for each image.

    Args:
        root: the folder.

    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self._times: dict[str, int | None] = {}
        self._surely = 0

    def look(self) -> None:
        """Note the times; call it before the images are listed, so that changes meanwhile count as such."""
        self._surely = time.time_ns() - _UNSURE
        self._times = {}
        for here, folders, files in os.walk(self.root):
            self._times[here] = _time(here)
            folders[:] = [name for name in folders if not is_litter(name)]
            if here == os.fspath(self.root):  # tables of groups are rewritten in place
                tables = [os.path.join(here, name) for name in files if name.lower().endswith(".csv")]
                self._times |= {path: _time(path) for path in tables}

    @property
    def has_changed(self) -> bool:
        """Whether something may have changed since the last look."""
        return any(old is None or old > self._surely or _time(path) != old for path, old in self._times.items())


def _time(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None
