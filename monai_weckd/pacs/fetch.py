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

"""Fetch DICOM series into a folder. An interrupted fetch can be resumed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from monai_weckd.pacs.index import SeriesIndex
from monai_weckd.pacs.server import DicomwebServer, Series
from monai_weckd.utils.files import sync_folder

__all__ = ["SeriesFolder", "series_folder"]

_AT_ONCE = 4  # parallel requests; they mainly wait for the disk, once per file


class SeriesFolder:
    """Fetch series of a server into a folder: ``<SeriesInstanceUID>/<SOPInstanceUID>.dcm``, and ``index.csv``.

    A series is built in ``<name>.part`` beside the folder, and moved into the folder when it is complete. After an
    interruption, its instances stay there, so that no instance is fetched twice.

    Args:
        server: the server.
        root: the folder.

    """

    def __init__(self, server: DicomwebServer, root: Path) -> None:
        self.server, self.root, self.parts = server, root, root.with_name(root.name + ".part")
        self.index = SeriesIndex(root)

    def fetch(self, series: Series) -> int:
        """Fetch the missing instances of a series, and return their number.

        Instances that the server no longer has are kept.

        Args:
            series: the series.

        Raises:
            DicomwebObjectError: When the server refuses the series, or returns invalid UIDs or objects.
            DicomwebError: When the server cannot be reached.

        """
        instances = self.server.instances(series)
        if self.index.is_whole(series.uid, instances):
            return 0
        part = self._begun(series.uid)
        missing = [uid for uid in instances if not (part / f"{uid}.dcm").exists()]
        self._retrieve(series, missing, part)
        self._finish(part)
        return len(missing)

    def _begun(self, uid: str) -> Path:
        """Return the folder where a series is built; a series that is no longer complete is moved back there."""
        part, final = self.parts / uid, self.root / uid
        if final.exists():
            if self.index.is_damaged(uid):
                shutil.rmtree(final)  # it is unknown which of its files are damaged
            elif part.exists():
                shutil.rmtree(part)
            self.index.drop(uid)
        if final.exists():
            os.rename(final, part)
        part.mkdir(exist_ok=True)
        return part

    def _retrieve(self, series: Series, instances: Sequence[str], part: Path) -> None:
        """Retrieve instances; each file gets its final name when it is complete."""
        files = [part / f"{uid}.part" for uid in instances]
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            done = pool.map(partial(self.server.retrieve, series), instances, files)
            for uid, file, _ in zip(instances, files, done, strict=True):
                self.server.check(series, uid, file)
                os.replace(file, file.with_suffix(".dcm"))
        finally:
            pool.shutdown(cancel_futures=True)

    def _finish(self, part: Path) -> None:
        row = self.index.describe(part)
        for path in part.glob("*.part"):
            path.unlink()
        sync_folder(part)
        os.rename(part, self.root / part.name)
        sync_folder(self.root)
        self.index.add(row)


@contextmanager
def series_folder(server: DicomwebServer, root: Path) -> Iterator[SeriesFolder]:
    """Open a folder for series with an exclusive lock.

    Args:
        server: the server.
        root: the folder, which is created.

    Raises:
        ValueError: When the folder is a mount point, or another process fetches into it.

    """
    root = root.resolve()
    if os.path.ismount(root):
        raise ValueError(f"output_dir: expected a folder in a file system, got {root}, the root of one. Add a name.")
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / ".lock", timeout=0):
            folder = SeriesFolder(server, root)
            folder.parts.mkdir(exist_ok=True)
            try:
                yield folder
            finally:
                if not any(folder.parts.iterdir()):
                    folder.parts.rmdir()
    except Timeout:
        raise ValueError(f"output_dir: expected one fetch at a time into {root}, got another. Wait for it.") from None
