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

import csv
import difflib
import os
from collections.abc import Collection, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from monai_weckd.data.dicom.patients import patient_groups
from monai_weckd.data.dicom.references import folder_of
from monai_weckd.data.image_files import SUFFIXES, image_files
from monai_weckd.data.medmnist import download_hint, medmnist_items
from monai_weckd.data.series_items import volumes
from monai_weckd.data.split_file import with_splits
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.oracle import LabelOracle
from monai_weckd.plan.planner import plan_chain
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.plan.splits import SPLITS
from monai_weckd.utils.enums import UNLABELED
from monai_weckd.utils.messages import nearest

__all__ = ["Datalist", "load_datalist", "manifest_groups", "plan_datalist"]


class Datalist(NamedTuple):
    """The items of a data set; no image has been opened.

    Args:
        items: one dictionary for each item with ``image`` (absolute path, or reference into an archive), ``label``
            (index into ``classes``, or ``UNLABELED``), ``group``, ``id`` and, if the manifest has one, ``split``.
        classes: class names in the order of their indices.
        skipped: ids that :py:func:`monai_weckd.data.verify_images` left out.

    """

    items: list[dict[str, Any]]
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()


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
        oracle: door to the labels, default None: the items themselves.

    Raises:
        ValueError: When there are too few labels for the settings, or given shards do not fit.
        PlanError: When a split or a stage lacks a class, nothing is left for training, or a group is in two splits.

    """
    return plan_chain(
        datalist.items,
        settings,
        classes=datalist.classes,
        skipped=datalist.skipped,
        shards=shards,
        earlier=earlier,
        oracle=oracle,
    )


class _Row(NamedTuple):
    """One line of a manifest, or one file of a class folder; error messages name its ``place``."""

    place: str
    file: str
    label: str
    group: str = ""
    split: str = ""


def load_datalist(
    dataset_dir: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    split_file: str | os.PathLike[str] | None = None,
    spatial_dims: int | None = None,
) -> Datalist:
    """List the items of a folder with a ``manifest.csv``, a folder of class folders, or a MedMNIST archive (.npz).

    ``manifest.csv`` has the columns ``file,label[,group][,split]``; other columns are ignored. ``file`` is an image, or
    the folder of a DICOM series, relative to ``dataset_dir``. An empty label means unlabeled. Without a manifest each
    folder is a class, searched recursively. DICOM images without a group in the manifest form a group for each
    patient, as their headers say, else for each study, else for each series; a name of the group says nothing of the
    patient. **Any other image without a group is its own group.** If a patient may have several of them, write a
    manifest, or the patient will leak between the splits. A MedMNIST archive has its own splits, see
    :py:func:`monai_weckd.data.medmnist.medmnist_items`.
    No image is decoded. Of files that may be DICOM, the start of the header is read.

    Args:
        dataset_dir: the folder, or a MedMNIST archive.
        classes: class names in the order of their indices, default None: all labels found, sorted by name.
        split_file: JSON file with the split of every item by its id; it overrides a ``split`` column. Default None.
        spatial_dims: 3 makes one item of each DICOM series in class folders, default None: each file is an item.

    Raises:
        ValueError: When the folder or the manifest is not as described; the message names the manifest's row.
        ValueError: When the split file names an item or a split that does not exist, or leaves an item out.

    Example::

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("ill/a.png", "well/b.png"):
        ...         path = PurePath(folder, name)
        ...         os.mkdir(path.parent)
        ...         open(path, "wb").close()
        ...     items, names, _ = load_datalist(folder)
        >>> names, [(item["id"], item["label"]) for item in items]
        (('ill', 'well'), [('ill/a.png', 0), ('well/b.png', 1)])

    """
    found = _load(dataset_dir, classes, by_series=spatial_dims == 3)
    return found if split_file is None else found._replace(items=with_splits(found.items, split_file))


def _load(dataset_dir: str | os.PathLike[str], classes: Sequence[str] | None, *, by_series: bool) -> Datalist:
    root = os.path.abspath(dataset_dir)
    if os.path.isfile(root) and root.lower().endswith(".npz"):
        items, names = medmnist_items(root, classes=classes)
        return Datalist(items, names)
    if not os.path.isdir(root):
        hint = download_hint(dataset_dir) or "Pass the folder that holds manifest.csv or the class folders."
        raise ValueError(f"dataset_dir: expected an existing folder, got {os.fspath(dataset_dir)!r}. {hint}")
    manifest = os.path.join(root, "manifest.csv")
    rows = _read_manifest(manifest) if os.path.isfile(manifest) else _read_folders(root, by_series=by_series)
    if not rows:
        raise ValueError(
            f"dataset_dir: expected images, got none in {root!r}. "
            "Add rows to manifest.csv, or images to <class>/ folders."
        )
    names = tuple(_class_names(rows, classes, root))
    items = _with_patients([_item(row, names, root) for row in rows], rows, root)
    _check_ids(items, rows)
    _check_groups(items, rows)
    return Datalist(items, names)


def manifest_groups(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return the group of each file by its id, from a folder's ``manifest.csv``; empty without a manifest.

    Args:
        folder: the folder.

    Raises:
        ValueError: When the manifest is not as :py:func:`load_datalist` describes it.

    """
    manifest = os.path.join(folder, "manifest.csv")
    rows = _read_manifest(manifest) if os.path.isfile(manifest) else []
    return {PurePath(os.path.normpath(row.file)).as_posix(): row.group for row in rows if row.group}


def _read_folders(root: str, *, by_series: bool) -> list[_Row]:
    rows = []
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    for label in folders:
        found = image_files(os.path.join(root, label))
        files = [os.path.relpath(path, root) for path in (volumes(found) if by_series else found)]
        if not files:
            raise ValueError(
                f"dataset_dir: expected images in every class folder, got none in {os.path.join(root, label)!r}. "
                f"Add images ({' '.join(SUFFIXES)}) or remove the folder."
            )
        rows += [_Row(file, file, label) for file in files]
    return rows


def _read_manifest(manifest: str) -> list[_Row]:
    try:
        # utf-8-sig drops the byte order mark that spreadsheets write
        with open(manifest, newline="", encoding="utf-8-sig") as stream:
            # strict: a quote that is never closed would swallow the rest of the file
            reader = csv.reader(stream, strict=True)
            columns = _columns([name.strip() for name in next(reader, [])], manifest)
            return [_row(fields, columns, f"{manifest}, row {reader.line_num}") for fields in reader if any(fields)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{manifest}: expected UTF-8 text, got {error.reason}. Save it as CSV UTF-8.") from error
    except csv.Error as error:
        raise ValueError(
            f"{manifest}, row {reader.line_num}: expected comma-separated values, got {error}. Correct the row."
        ) from error


def _columns(header: list[str], manifest: str) -> list[str]:
    for name in ("file", "label"):
        if name not in header:
            near = difflib.get_close_matches(name, header, n=1, cutoff=0.0)
            raise ValueError(
                f"{manifest}, row 1: expected a column {name!r}, got {len(header)} others, the nearest {near}. "
                "Rename or add it, and separate columns by commas."
            )
    for name in ("file", "label", "group", "split"):
        if header.count(name) > 1:
            raise ValueError(f"{manifest}, row 1: expected one column {name!r}, got {header.count(name)}. Rename one.")
    return header


def _row(fields: list[str], columns: list[str], place: str) -> _Row:
    if any(fields[len(columns) :]):
        raise ValueError(
            f"{place}: expected {len(columns)} fields, got {len(fields)}. Put values that contain a comma in quotes."
        )
    values = {name: value.strip() for name, value in zip(columns, fields, strict=False)}
    row = _Row(place, *(values.get(name, "") for name in ("file", "label", "group", "split")))
    if row.split and row.split not in SPLITS:
        raise ValueError(f"{place}: expected a split of {SPLITS}, got {row.split!r}. {nearest(row.split, SPLITS)}")
    return row


def _class_names(rows: list[_Row], classes: Sequence[str] | None, root: str) -> list[str]:
    found = sorted({row.label for row in rows if row.label})
    names = found if classes is None else list(classes)
    if len(names) < 2:
        where = f"labels in {root!r}" if classes is None else "classes"
        raise ValueError(f"{where}: expected two classes or more, got {names}. Add labeled images of another class.")
    if len(set(names)) < len(names):
        raise ValueError(f"classes: expected distinct names, got {names}. Remove the repeated name.")
    for row in rows:
        if row.label and row.label not in names:
            raise ValueError(
                f"{row.place}: expected one of the {len(names)} classes, got {row.label!r}. {nearest(row.label, names)}"
            )
    return names


def _item(row: _Row, names: tuple[str, ...], root: str) -> dict[str, Any]:
    key = PurePath(os.path.normpath(row.file)).as_posix()
    if "\0" in row.file or key in (".", "..") or key.startswith("../") or os.path.isabs(key):
        raise ValueError(
            f"{row.place}: expected a path inside {root!r}, got {row.file!r}. Write it relative to the folder."
        )
    path = os.path.join(root, key)
    if not os.path.exists(folder_of(path)):
        raise ValueError(
            f"{row.place}: expected an existing file, got {row.file!r}. Correct the path or remove the row."
        )
    if os.path.isdir(path) and not any(entry.is_file() for entry in os.scandir(path)):
        raise ValueError(
            f"{row.place}: expected a folder with files, got {row.file!r}. Add the images or remove the row."
        )
    label = names.index(row.label) if row.label else UNLABELED
    item = {"image": path, "label": label, "group": row.group or key, "id": key}
    return {**item, "split": row.split} if row.split else item


def _with_patients(items: list[dict[str, Any]], rows: list[_Row], root: str) -> list[dict[str, Any]]:
    """Put DICOM images whose row has no group into the group of their patient."""
    images = {item["id"]: item["image"] for item, row in zip(items, rows, strict=True) if not row.group}
    groups = patient_groups(images, where=root)
    return [{**item, "group": groups.get(item["id"], item["group"])} for item in items]


def _check_ids(items: list[dict[str, Any]], rows: list[_Row]) -> None:
    first: dict[str, _Row] = {}
    for item, row in zip(items, rows, strict=True):
        if item["id"] in first:
            other = first[item["id"]].place.rpartition(", ")[2]
            raise ValueError(
                f"{row.place}: expected each file once, got {item['id']!r} as in {other}. Remove one of the rows."
            )
        first[item["id"]] = row


def _check_groups(items: list[dict[str, Any]], rows: list[_Row]) -> None:
    first: dict[str, _Row] = {}
    for item, row in zip(items, rows, strict=True):
        other = first.setdefault(item["group"], row)
        if other.split != row.split:
            raise ValueError(
                f"{row.place}: expected group {item['group']!r} in split {other.split!r} as in "
                f"{other.place.rpartition(', ')[2]}, got {row.split!r}. Put the whole group into one split."
            )
