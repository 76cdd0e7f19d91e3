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

"""Build the list of items from a manifest, from class folders or from a MedMNIST archive."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from monai_weckd.data.class_folders import inner_folders, read_folders
from monai_weckd.data.dicom.patients import patient_groups
from monai_weckd.data.dicom.references import folder_of
from monai_weckd.data.findings import read_findings
from monai_weckd.data.manifest import FileFinder, Row, find_manifest, read_manifest
from monai_weckd.data.masks import find_masks
from monai_weckd.data.medmnist import download_hint, medmnist_items
from monai_weckd.data.names import clean_text, fold_text, join_spellings, spelled_as
from monai_weckd.data.passed_over import PassedOver
from monai_weckd.data.split_file import with_splits
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.plan.oracle import LabelOracle
from monai_weckd.plan.planner import plan_chain
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.utils.enums import UNLABELED
from monai_weckd.utils.messages import nearest, printable
from monai_weckd.utils.tables import read_table

__all__ = ["Datalist", "known_group", "known_groups", "load_datalist", "plan_datalist"]


class Datalist(NamedTuple):
    """The items of a data set; no image has been opened.

    Args:
        items: one dictionary for each item with ``image`` (absolute path, or reference into an archive), ``label``
            (index into ``classes``, or ``UNLABELED``; for findings an array, (F,), of 1, 0 and -1, which is unknown),
            ``group``, ``id`` and, if the manifest has one, ``split``.
        classes: names of the classes, or of the findings, in the order of their indices.
        skipped: ids that :py:func:`monai_weckd.data.verify_images` left out.
        passed_over: columns and files that were not used.
        layout: the class folders and their numbers of images, in one line; empty without class folders.
        findings: whether ``classes`` are findings, of which an image may show several or none.
        item_level: "image"; or "series", "study" or "patient" if an item is all images of one, which
            :py:func:`monai_weckd.data.group_images` makes.

    """

    items: list[dict[str, Any]]
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    passed_over: PassedOver = PassedOver()
    layout: str = ""
    findings: bool = False
    item_level: str = "image"

    @property
    def kind(self) -> LabelKind:
        """The kind of the labels."""
        return LabelKind(self.classes, self.findings)


def plan_datalist(
    datalist: Datalist,
    settings: PlanSettings | None = None,
    *,
    shards: Sequence[Collection[str]] | str | os.PathLike[str] | None = None,
    earlier: ChainPlan | str | os.PathLike[str] | None = None,
    oracle: LabelOracle | None = None,
) -> ChainPlan:
    """Plan a chain over a data list, see :py:func:`monai_weckd.plan_chain`.

    Args:
        datalist: the items, their classes, and what was left out.
        settings: how to plan, default None: the defaults.
        shards: given shards, or the ``plan.json`` of a run that has them; default None.
        earlier: plan of a part of these items, or the path of its ``plan.json``, whose groups stay in their splits;
            default None.
        oracle: access to the labels, default None: an oracle over the items.

    Raises:
        ValueError: When there are too few labels for the settings, or given shards do not fit.
        PlanError: When a split or a stage lacks a class, nothing is left for training, or a group is in two splits.

    """
    return plan_chain(
        datalist.items,
        settings,
        classes=datalist.classes,
        findings=datalist.findings,
        skipped=datalist.skipped,
        shards=shards,
        earlier=earlier,
        oracle=oracle,
    )


def load_datalist(
    dataset_dir: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    split_file: str | os.PathLike[str] | None = None,
    spatial_dims: int | None = None,
    findings: bool = False,
) -> Datalist:
    """List the items of a folder with a ``manifest.csv``, a folder of class folders, or a MedMNIST archive (.npz).

    ``manifest.csv`` has the columns ``file,label[,group][,split]``, in upper or lower case; ``patient``, ``subject_id``
    and the like are the group. A column that is probably meant as one of these is refused; other columns are listed in
    ``passed_over``. ``file`` is an image, or the folder of a DICOM series, relative to ``dataset_dir``. An empty label
    means unlabeled. ``nan``, ``None`` and ``NA`` count as empty. Without a manifest each folder is a class, searched
    recursively. Class folders below ``train``, ``val`` and ``test`` give their images a split. DICOM images without a
    group in the manifest form a group for each patient, as their headers say, else for each study, else for each
    series; the name of such a group reveals nothing about the patient. **Any other image without a group is its own
    group.** If a patient may have several of them, write a manifest, or the patient will leak between the splits. A
    MedMNIST archive has its own splits, see :py:func:`monai_weckd.data.medmnist.medmnist_items`. A class folder, or a
    label, "unlabeled" means no label. Labels and groups that
    differ only by case, white space, Unicode form or invisible characters are one, in the most frequent spelling. No
    image is decoded. Of files that may be DICOM, the start of the header is read.

    With ``findings`` an image may show several findings, or none: the manifest has columns ``finding:<name>`` or a
    column ``findings`` (see :py:func:`monai_weckd.data.findings.read_findings`) in place of ``label``, or the archive
    has several labels for each image, as ChestMNIST does. Folders have one class an image.

    Args:
        dataset_dir: the folder, or a MedMNIST archive.
        classes: class names in the order of their indices, default None: all labels found, sorted by name.
        split_file: JSON file with the split of every item by its id; it overrides a ``split`` column. Default None.
        spatial_dims: 3 makes one item of each DICOM series in class folders, default None: each file is an item.
        findings: whether to read findings, default False: each image has one class.

    Raises:
        ValueError: When the folder or the manifest is not as described; the message names the manifest's row.
        ValueError: When the images have findings and these are not asked for, or the other way round.
        ValueError: When the split file names an item or a split that does not exist, or leaves an item out.

    Example::

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("ill/a.png", "well/b.png"):
        ...         path = PurePath(folder, name)
        ...         os.mkdir(path.parent)
        ...         open(path, "wb").close()
        ...     items, names, *_ = load_datalist(folder)
        >>> names, [(item["id"], item["label"]) for item in items]
        (('ill', 'well'), [('ill/a.png', 0), ('well/b.png', 1)])

    """
    found = _load(dataset_dir, classes, by_series=spatial_dims == 3, findings=findings)
    return found if split_file is None else found._replace(items=with_splits(found.items, split_file))


def _load(
    dataset_dir: str | os.PathLike[str], classes: Sequence[str] | None, *, by_series: bool, findings: bool
) -> Datalist:
    root = os.path.abspath(dataset_dir)
    if os.path.isfile(root) and root.lower().endswith(".npz"):
        items, names = medmnist_items(root, classes=classes, findings=findings)
        return Datalist(items, names, findings=findings)
    if not os.path.isdir(root):
        hint = download_hint(dataset_dir) or "Pass the folder that holds manifest.csv or the class folders."
        raise ValueError(f"dataset_dir: expected an existing folder, got {os.fspath(dataset_dir)!r}. {hint}")
    manifest, layout = find_manifest(root), ""
    passed_over = PassedOver()
    if findings:
        return _load_findings(root, manifest, classes, passed_over)
    if manifest:
        rows = read_manifest(manifest, passed_over, classes=classes)
        _refuse_masks(rows)
    else:
        rows = read_folders(root, passed_over, by_series=by_series)
        counts = Counter(row.label or "without a label" for row in rows)
        layout = "class folders: " + ", ".join(f"{printable(name)} {count}" for name, count in sorted(counts.items()))
    if not rows:
        raise ValueError(
            f"dataset_dir: expected images, got none in {root!r}. "
            "Add rows to manifest.csv, or images to <class>/ folders."
        )
    rows = _with_usual_labels(rows, classes, passed_over)
    names = tuple(_class_names(rows, classes, root))
    finder = FileFinder(root)
    items = _with_patients([_item(row, names, finder) for row in rows], rows, root)
    _check_ids(items, rows)
    _check_groups(items, rows)
    return Datalist(items, names, passed_over=passed_over, layout=layout)


def _load_findings(root: str, manifest: str, classes: Sequence[str] | None, passed_over: PassedOver) -> Datalist:
    if not manifest:
        raise ValueError(
            f"dataset_dir: expected a manifest.csv in {root!r}, got none. "
            "Findings come from its columns 'finding:<name>' or 'findings'; folders have one class an image."
        )
    rows = read_manifest(manifest, passed_over, labels=False)
    _refuse_masks(rows)
    names, values = read_findings(manifest, passed_over)
    if not rows:
        raise ValueError(f"dataset_dir: expected images, got none in {root!r}. Add rows to manifest.csv.")
    if classes is not None and tuple(classes) != names:
        raise ValueError(
            f"classes: expected the findings of the manifest, {names}, got {tuple(classes)}. Leave it out."
        )
    if any(row.label for row in rows):
        passed_over.columns.append("label")
    finder = FileFinder(root)
    bare = [_item(row._replace(label=""), names, finder) for row in rows]
    items = [{**item, "label": value} for item, value in zip(bare, values, strict=True)]
    items = _with_patients(items, rows, root)
    _check_ids(items, rows)
    _check_groups(items, rows)
    return Datalist(items, names, passed_over=passed_over, findings=True)


def known_groups(folder: str | os.PathLike[str], passed_over: PassedOver | None = None) -> dict[str, str]:
    """Return groups by id, from a folder's ``manifest.csv``, else the ``index.csv`` of ``python -m monai_weckd fetch``.

    Args:
        folder: the folder.
        passed_over: gets the columns that are not used, default None.

    Raises:
        ValueError: When the manifest is not as :py:func:`load_datalist` describes it.

    """
    return _manifest_groups(folder, passed_over) or _fetched_groups(folder)


def known_group(groups: Mapping[str, str], key: str) -> str:
    """Return the group of an image, which may be that of its fetched series; empty without one.

    Args:
        groups: result of :py:func:`known_groups`.
        key: path of the image within the folder.

    """
    return groups.get(key) or groups.get(key.partition("/")[0]) or ""


def _manifest_groups(folder: str | os.PathLike[str], passed_over: PassedOver | None) -> dict[str, str]:
    manifest, finder = find_manifest(folder), FileFinder(os.fspath(folder))
    if not manifest:
        return {}
    rows = read_manifest(manifest, PassedOver() if passed_over is None else passed_over, labels=False)
    return {finder.find(PurePath(os.path.normpath(row.file)).as_posix()): row.group for row in rows if row.group}


def _fetched_groups(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return the patient of each fetched series, by the name of its folder."""
    path = Path(folder, "index.csv")
    text = path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""
    if not text.startswith("series,group,"):
        return {}  # there is no index, or it is from another program
    return {row["series"]: row["group"] for row in read_table(text)}


def _refuse_masks(rows: list[Row]) -> None:
    """Refuse a manifest that lists the masks of its images as further images."""
    for mask, image in find_masks(row.file for row in rows).items():
        place = next(row.place for row in rows if row.file == mask)
        raise ValueError(
            f"{place}: expected images, got {mask!a} beside {image!a}, which looks like its mask. "
            "Remove the row, or rename the file if it is an image."
        )


def _with_usual_labels(rows: list[Row], classes: Sequence[str] | None, passed_over: PassedOver) -> list[Row]:
    """Return rows in which each label has one spelling: that of the class, else the most frequent one."""
    usual = join_spellings(clean_text(row.label) for row in rows if row.label)
    if classes is not None:
        usual = {label: spelled_as(label, map(clean_text, classes)) for label in usual}
    labels = (passed_over.joined("label", row.label, usual.get(clean_text(row.label), "")) for row in rows)
    return [row._replace(label=label) for row, label in zip(rows, labels, strict=True)]


def _class_names(rows: list[Row], classes: Sequence[str] | None, root: str) -> list[str]:
    found = sorted({row.label for row in rows if row.label})
    names = found if classes is None else list(map(clean_text, classes))
    _refuse_joined(rows, names)
    if len(names) < 2:
        where = f"labels in {root!r}" if classes is None else "classes"
        inner = inner_folders(root) if classes is None else ""
        remedy = f"If the classes are in {inner!r}, pass that." if inner else "Add labeled images of another class."
        raise ValueError(f"{where}: expected two classes or more, got {names}. {remedy}")
    if len(set(map(fold_text, names))) < len(names):
        raise ValueError(f"classes: expected distinct names, got {names}. Remove the repeated name.")
    for row in rows:
        if row.label and row.label not in names:
            raise ValueError(
                f"{row.place}: expected one of the {len(names)} classes, got {row.label!r}. {nearest(row.label, names)}"
            )
    return names


def _refuse_joined(rows: list[Row], names: Collection[str]) -> None:
    """Refuse a cell that holds several labels, which would be a class of its own."""
    for label in names:
        parts = [clean_text(part) for part in re.split(r"[|;,]", label)]
        if len(parts) > 1 and set(parts) <= set(names) - {label}:
            place = next((row.place for row in rows if row.label == label), "classes")
            raise ValueError(
                f"{place}: expected one label, got {label!r}, which joins {' and '.join(map(repr, parts))}. "
                "Keep one of them, or give both together another name."
            )


def _item(row: Row, names: tuple[str, ...], finder: FileFinder) -> dict[str, Any]:
    key, root = PurePath(os.path.normpath(row.file)).as_posix(), finder.root
    if "\0" in row.file or key in (".", "..") or key.startswith("../") or os.path.isabs(key):
        raise ValueError(
            f"{row.place}: expected a path inside {root!r}, got {row.file!r}. Write it relative to the folder."
        )
    key = finder.find(key)
    path = os.path.join(root, key)
    if not os.path.exists(folder_of(path)):
        raise ValueError(
            f"{row.place}: expected an existing file, got {row.file!r}. Correct the path or remove the row."
            f"{finder.near(key)}"
        )
    if os.path.isdir(path) and not any(entry.is_file() for entry in os.scandir(path)):
        raise ValueError(
            f"{row.place}: expected a folder with files, got {row.file!r}. Add the images or remove the row."
        )
    label = names.index(row.label) if row.label else UNLABELED
    item = {"image": path, "label": label, "group": row.group or key, "id": key}
    return {**item, "split": row.split} if row.split else item


def _with_patients(items: list[dict[str, Any]], rows: list[Row], root: str) -> list[dict[str, Any]]:
    """Put DICOM images whose row has no group into the group of their patient."""
    images = {item["id"]: item["image"] for item, row in zip(items, rows, strict=True) if not row.group}
    groups = patient_groups(images, where=root)
    return [{**item, "group": groups.get(item["id"], item["group"])} for item in items]


def _check_ids(items: list[dict[str, Any]], rows: list[Row]) -> None:
    first: dict[str, Row] = {}
    for item, row in zip(items, rows, strict=True):
        if item["id"] in first:
            other = first[item["id"]].place.rpartition(", ")[2]
            raise ValueError(
                f"{row.place}: expected each file once, got {item['id']!r} as in {other}. Remove one of the rows."
            )
        first[item["id"]] = row


def _check_groups(items: list[dict[str, Any]], rows: list[Row]) -> None:
    first: dict[str, Row] = {}
    for item, row in zip(items, rows, strict=True):
        other = first.setdefault(item["group"], row)
        if other.split != row.split:
            raise ValueError(
                f"{row.place}: expected group {item['group']!r} in split {other.split!r} as in "
                f"{other.place.rpartition(', ')[2]}, got {row.split!r}. Put the whole group into one split."
            )
