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

"""Refer to one of several series in a folder: ``<folder>::<SeriesInstanceUID>``, in the place of a path."""

from __future__ import annotations

import os

__all__ = ["folder_of", "parse_series", "series_reference"]


def series_reference(folder: str, series_uid: str) -> str:
    """Return the reference to a series.

    Args:
        folder: the folder with its files.
        series_uid: its SeriesInstanceUID.

    """
    return f"{folder}::{series_uid}"


def parse_series(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """Return folder and SeriesInstanceUID of a reference; None for any other path.

    Args:
        path: a path or reference.

    """
    folder, mark, uid = os.fspath(path).rpartition("::")
    return (folder, uid) if mark and os.path.isdir(folder) and not os.path.exists(path) else None


def folder_of(path: str | os.PathLike[str]) -> str:
    """Return the folder of a reference; any other path as it is.

    Args:
        path: a path or reference.

    """
    found = parse_series(path)
    return os.fspath(path) if found is None else found[0]
