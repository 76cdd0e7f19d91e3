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

"""Begin a labeling session with the labels of a manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from monai_weckd.annotation.session import AnnotationSession
from monai_weckd.data.manifest import FileFinder, Row, read_manifest
from monai_weckd.data.names import spelled_as
from monai_weckd.data.passed_over import PassedOver
from monai_weckd.utils.messages import nearest

__all__ = ["take_labels"]


def take_labels(session: AnnotationSession, manifest: str | os.PathLike[str]) -> tuple[int, int]:
    """Label images as a manifest says; images that have a label keep it.

    Either all labels are taken or none. They carry the manifest's name as ``source``, and no person.

    Args:
        session: the session.
        manifest: CSV with the columns ``file``, a path in the folder of the images, and ``label``; rows without a label
            are passed over.

    Returns:
        How many labels were taken, and how many images had a label.

    Raises:
        ValueError: When the manifest is damaged, or names an unknown class or image, or an image twice.

    """
    finder, found, known = FileFinder(str(session.studies)), dict[str, str](), session.store.entries
    for row in read_manifest(manifest, PassedOver(), classes=session.classes):
        if not row.label:
            continue
        key = finder.find(row.file)
        if key not in session.items:
            raise ValueError(
                f"{row.place}: expected an image in {session.studies}, got {row.file!r}.{finder.near(row.file)} "
                "Correct the manifest."
            )
        label = _class_of(row, (*session.classes, *session.answers), len(session.classes))
        if found.setdefault(key, label) != label:
            raise ValueError(f"{row.place}: expected one label for {row.file!r}, got {label!r} and {found[key]!r}.")
    new = {key: label for key, label in found.items() if key not in known}
    session.store.put_all(new, info={"source": Path(manifest).name})
    return len(new), len(found) - len(new)


def _class_of(row: Row, known: Sequence[str], classes: int) -> str:
    label = spelled_as(row.label, known)
    if label not in known:
        raise ValueError(
            f"{row.place}: expected one of the {classes} classes, got {row.label!r}. {nearest(row.label, known)}"
        )
    return label
