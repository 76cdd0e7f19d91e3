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

"""Export the labels of a session as a manifest for training."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monai_weckd.annotation.images import find_items
from monai_weckd.annotation.label_files import labeled_findings, labeled_level, note_export, read_labels
from monai_weckd.annotation.label_words import known_findings
from monai_weckd.annotation.readings import check_policy, decision, readings_of, shares_of
from monai_weckd.data.columns import FINDING
from monai_weckd.data.dicom.patients import image_id
from monai_weckd.data.dicom.references import folder_of
from monai_weckd.data.item_level import PLURALS, images_in
from monai_weckd.data.keys import LEVELS, KeyFinder
from monai_weckd.data.manifest import FileFinder
from monai_weckd.utils.files import write_atomically

__all__ = ["export_labels", "labeled_items"]


def export_labels(dataset_dir: Path, labels: Path, output: Path, *, policy: str = "settle") -> Counter[str]:
    """Write a manifest of all images in a folder with the labels given so far, and return counts.

    Where an item of several images has a label, each of its images has it, and columns ``study`` and ``series`` name
    the item down to its level.

    Its columns are ``file``, ``label`` (or ``finding:<name>`` for each finding: 1, 0, or empty where it is unknown) and
    ``group``, then ``labeled_by`` and ``labeled_at``: the person, and the time
    in UTC, ``answer``: what somebody said in place of a class, and ``readings``: what each of several readers says. The
    label is empty where they differ and nothing has decided between them. By "soft" it is the class with the largest
    share, and a column ``shares`` has all of them. The log of the labels gets a line.

    Groups come from the folder's ``manifest.csv``, or from fetched series. If any label belongs to a folder, each
    folder with DICOM files counts as one series.

    Args:
        dataset_dir: folder of the images.
        labels: ``labels.json`` of :py:class:`~monai_weckd.annotation.AnnotationSession`.
        output: the manifest to write.
        policy: what becomes of disagreements, "settle", "majority" or "soft", default "settle".

    Returns:
        The number of images (or items) that are "labeled" and "unlabeled", and of labels "of images that are gone".

    Raises:
        ValueError: When there are no labels, or no images, or no such policy for these labels.

    """
    items, given = labeled_items(dataset_dir, labels)
    names = labeled_findings(labels)
    check_policy(policy, findings=names)
    given = {key: _decided(entry, policy, names) for key, entry in given.items()}
    known = given.keys() & {item["id"] for item in items}
    answers = sum(bool(given[key].get("answer")) for key in known)
    told = sum(bool(given[key]["label"]) for key in known) - answers
    level, root = labeled_level(labels)[0], dataset_dir.absolute()
    of_level = LEVELS[1 : LEVELS.index(level) + 1] if level in LEVELS else ()
    keys = KeyFinder(root)
    rows = []
    for item in items:
        entry = given.pop(item["id"], {})
        for path in images_in(item):
            above = [getattr(keys.find(path), name) for name in of_level]
            row = _row({**item, "id": image_id(path, root)}, entry, names, above)
            rows.append([*row, _shares(entry)] if policy == "soft" else row)
    text = io.StringIO(newline="")
    # no escaping of spreadsheet formulas: the manifest is read back, so values must stay as they are
    labels_in = [f"{FINDING}{name}" for name in names] or ["label"]
    header = ["file", *labels_in, "group", *of_level, "labeled_by", "labeled_at", "answer", "readings"]
    if policy == "soft":
        header.append("shares")
    csv.writer(text).writerows([header, *rows])
    write_atomically(output, text.getvalue())
    note_export(labels, to=output.name, labels=told)
    counts = {"labeled": told, "unlabeled": len(items) - told, f"of {PLURALS[level]} that are gone": len(given)}
    counts["answers in place of a class"] = answers
    counts["disagreements"] = len(known) - told - answers
    return Counter(counts)


def labeled_items(dataset_dir: Path, labels: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the images of a folder, and the entries of ``labels.json`` by the ids of their images.

    Where items of several images have the labels, these are returned. If any label belongs to a folder, each folder
    with DICOM files counts as one series.

    Args:
        dataset_dir: folder of the images.
        labels: ``labels.json`` of :py:class:`~monai_weckd.annotation.AnnotationSession`.

    Raises:
        ValueError: When there are no labels, or no images.

    """
    if not labels.is_file():
        raise ValueError(f"labels: expected labels.json of `label`, got no {labels}. Correct the path.")
    level, spatial_dims = labeled_level(labels)
    if level != "image":
        return find_items(dataset_dir, spatial_dims=spatial_dims, item_level=level), read_labels(labels)
    # a Mac may have written the names in another Unicode form
    finder = FileFinder(str(dataset_dir))
    given = {finder.find(key): entry for key, entry in read_labels(labels).items()}
    series = any((dataset_dir / folder_of(dataset_dir / key)).is_dir() for key in given)
    return find_items(dataset_dir, spatial_dims=3 if series else 2), given


def _decided(entry: dict[str, Any], policy: str, names: Sequence[str]) -> dict[str, Any]:
    """Return an entry with the label that counts where readers differ."""
    label = decision(entry, policy, findings=names)
    said: Mapping[str, Any] = next((one for one in entry.get("readings", ()) if one["label"] == label), {})
    answer = entry.get("answer") or said.get("answer")
    return {**entry, "label": label, **({"answer": True} if answer else {}), "shares": shares_of(entry)}


def _shares(entry: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {share:.3f}" for name, share in entry.get("shares", {}).items())


def _row(item: Mapping[str, Any], entry: Mapping[str, Any], names: Sequence[str], of_level: Sequence[str]) -> list[str]:
    ts = entry.get("ts")
    when = datetime.fromtimestamp(ts, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") if ts is not None else ""
    label = entry.get("label") or ""
    label, answer = ("", label) if entry.get("answer") else (label, "")
    said = "; ".join(f"{who or 'somebody'}: {reading}" for who, reading in readings_of(entry).items())
    values = [str(known_findings(label).get(name, "")) for name in names] or [label]
    return [item["id"], *values, item["group"], *of_level, entry.get("who") or "", when, answer, said]
