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

from __future__ import annotations

from pathlib import Path

from monai_weckd.data.datalist import load_datalist

FILES = "a.png b.png c.png d.png e.png f.png"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def manifest(root: Path, text: str, *, files: str = "a.png b.png c.png") -> Path:
    touch(root, *files.split())
    (root / "manifest.csv").write_bytes(text.encode())
    return root


def rows(*lines: str, header: str = "file,label,group,split") -> str:
    return "\n".join((header, *lines))


def listed(root, header, *lines, files=FILES):
    return load_datalist(manifest(root, rows(*lines, header=header), files=files))


def six(column, labels="xyxyxy"):
    """Return lines of six files with a label and one more column."""
    return [f"{name}.png,{label},{value}" for name, label, value in zip("abcdef", labels, column, strict=True)]
