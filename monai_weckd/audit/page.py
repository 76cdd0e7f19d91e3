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

"""Write an audit: a page that opens offline, a table and a JSON file."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from monai_weckd.audit.audit import Audit
from monai_weckd.audit.findings import COLUMNS, KINDS, Finding, finding_rows
from monai_weckd.audit.subgroups import ATTRIBUTES, table_columns, table_rows
from monai_weckd.utils.files import write_atomically
from monai_weckd.utils.tables import table_text
from monai_weckd.visualize.report import data_uri, page_template

__all__ = ["FILES", "check_page", "prepare_folder", "write_audit"]

FILES = ("audit.html", "audit.csv", "audit_counts.csv", "audit.json")
_TEMPLATE = "audit.html.jinja"
_SHOWN = 20  # findings of a kind on the page
_PIXELS = 112  # longer side of a thumbnail


def check_page() -> None:
    """Raise an error if the page cannot be written.

    Raises:
        ImportError: When ``jinja2`` is not installed.

    """
    page_template(_TEMPLATE)


def prepare_folder(output_dir: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Create the folder of an audit; refuse to replace an earlier one without ``overwrite``.

    Args:
        output_dir: the folder.
        overwrite: whether an earlier audit may be replaced; other files stay as they are.

    Raises:
        FileExistsError: When there is an earlier audit and ``overwrite`` is False.
        NotADirectoryError: When there is a file in the folder's place.

    """
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"output_dir: expected a folder, got a file at {folder}. Pass another one.")
    folder.mkdir(parents=True, exist_ok=True)
    earlier = [name for name in FILES if (folder / name).exists()]
    if earlier and not overwrite:
        raise FileExistsError(
            f"output_dir: expected a folder without an audit, got {folder} with {earlier[0]}. "
            "Pass another one, or --overwrite."
        )
    return folder


def write_audit(
    audit: Audit, output_dir: str | os.PathLike[str], *, picture: Callable[[str], bytes], about: Mapping[str, Any]
) -> None:
    """Write ``audit.html``, ``audit.csv``, ``audit_counts.csv`` and ``audit.json``.

    Args:
        audit: the audit.
        output_dir: an existing folder.
        picture: returns a picture of the image at a path, in a format that Pillow reads.
        about: further entries of ``audit.json``, such as the bundle's name.

    """
    folder = Path(output_dir)
    rows = list(finding_rows(audit.findings, audit.items, audit.kind.names))
    content = {**_content(audit), **about}
    sections = list(_sections(audit, rows, picture))
    page = page_template(_TEMPLATE).render(content=content, sections=sections, parts=_parts(audit))
    write_atomically(folder / "audit.csv", table_text(COLUMNS, rows))
    write_atomically(
        folder / "audit_counts.csv", table_text(table_columns(audit.kind), table_rows(audit.subgroups, audit.kind))
    )
    # escapes keep file names that are not UTF-8
    write_atomically(folder / "audit.json", json.dumps({**content, "findings": rows}, indent=1) + "\n")
    write_atomically(folder / "audit.html", page.encode("utf-8", errors="backslashreplace"))


def _content(audit: Audit) -> dict[str, Any]:
    run = audit.run
    return {
        "format": 1,
        "images": len(audit.items),
        "groups": len({item["group"] for item in audit.items}),
        "classes": list(audit.kind.names),
        "labels": audit.kind.word,
        "judged_labels": audit.judged,
        "counts": audit.counts,
        "subgroups": list(audit.subgroups),
        "run": None if run is None else {"split": run.split, "images": len(run.probabilities), "absent": run.absent},
        "limits": {kind: dict(map(_finite, limits.items())) for kind, limits in audit.limits.items()},
    }


def _parts(audit: Audit) -> list[dict[str, Any]]:
    """Return the subgroups by attribute, in the order of the page; of one with many values, the first ones."""
    parts = []
    for attribute in ("all", "class", "split", *ATTRIBUTES):
        rows = [row for row in audit.subgroups if row["attribute"] == attribute]
        parts.append({"attribute": attribute, "rows": rows[:_SHOWN], "more": len(rows[_SHOWN:])})
    return parts


def _finite(entry: tuple[str, float]) -> tuple[str, float | None]:
    name, value = entry
    return name, round(value, 6) if math.isfinite(value) else None


def _sections(audit: Audit, rows: list[dict[str, Any]], picture: Callable[[str], bytes]) -> Iterator[dict[str, Any]]:
    for kind, title in KINDS.items():
        pairs = [pair for pair in zip(audit.findings, rows, strict=True) if pair[0].kind == kind]
        shown = [{**row, "pictures": _pictures(finding, audit, picture)} for finding, row in pairs[:_SHOWN]]
        yield {"kind": kind, "title": title, "count": len(pairs), "shown": shown}


def _pictures(finding: Finding, audit: Audit, picture: Callable[[str], bytes]) -> list[str]:
    if finding.kind == "unreadable":
        return []
    return [_thumbnail(picture(audit.items[place]["image"])) for place in finding.places]


def _thumbnail(content: bytes) -> str:
    """Return a picture as a small JPEG in a data URI."""
    with Image.open(io.BytesIO(content)) as image:
        small = image.convert("RGB")
    small.thumbnail((_PIXELS, _PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85)
    return data_uri(buffer.getvalue(), "jpeg")
