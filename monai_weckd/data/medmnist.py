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

"""List and read the images of MedMNIST archives."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from monai_weckd.data.npz import array_header, check_array, map_array, read_array
from monai_weckd.plan.splits import SPLITS
from monai_weckd.utils.budget import budgeted, claim

__all__ = [
    "Reference",
    "archive_split",
    "check_split",
    "download_hint",
    "medmnist_items",
    "parse_reference",
    "read_medmnist",
]

_REFERENCE = re.compile(r"(?P<archive>.+\.npz)::(?P<split>train|val|test)/(?P<number>\d+)", re.DOTALL | re.IGNORECASE)
_NAME = re.compile(r"(?P<flag>[a-z]+mnist(3d)?)(_(?P<size>\d+))?(\.npz)?")

_ITEM = 1000  # bytes of an item of a list of data


class Reference(NamedTuple):
    """One image of an archive."""

    archive: str
    split: str
    number: int


@budgeted
def medmnist_items(
    path: str | os.PathLike[str], *, classes: Sequence[str] | None = None, findings: bool = False
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """List the items of a MedMNIST archive, with the official splits.

    Such an archive (``bloodmnist.npz``, ``organmnist3d_64.npz``) has the arrays ``<split>_images`` and
    ``<split>_labels`` for train, val and test: gray images ``(N, Y, X)``, RGB ``(N, Y, X, 3)`` or volumes
    ``(N, Z, Y, X)``, and one label for each, or as in ChestMNIST 0 or 1 for each of several findings,
    ``(N, F)``. The archive does not say which images show one patient, so each image is its own group. No image is
    read; an item's ``image`` is a reference, ``<path>::train/12``, which
    :py:class:`~monai_weckd.transforms.load.LoadMedicalImage` loads.

    Args:
        path: the archive.
        classes: names of the labels 0, 1, ..., in this order. Default None: the names from the package ``medmnist``, if
            it is installed and knows the archive by its file name, else "0", "1", ...
        findings: whether the archive has findings, default False: one label for each image.

    Returns:
        The items and the class names.

    Raises:
        ValueError: When the file is not such an archive, or has findings and ``findings`` is False, or the reverse.
        ValueError: When ``classes`` does not name every label.

    J. Yang et al., MedMNIST v2, Scientific Data 10:41, 2023.

    """
    path = os.path.abspath(path)
    labels: dict[str, Any] = {split: (_findings if findings else _labels)(path, split) for split in SPLITS}
    if findings:
        names = _finding_names(path, {values.shape[1] for values in labels.values()}, classes)
    else:
        names = _class_names(path, 1 + max(max(values, default=0) for values in labels.values()), classes)
    items = []
    for split, values in labels.items():
        width = max(5, len(str(len(values))))  # so that sorting the ids keeps the order of the archive
        for index, label in enumerate(values):
            key = f"{split}/{index:0{width}d}"
            image = f"{path}::{split}/{index}"
            items.append({"image": image, "label": label, "group": key, "id": key, "split": split})
    return items, names


def read_medmnist(reference: str) -> np.ndarray | None:
    """Return an image of an archive, ``(C, X, Y)`` or ``(1, X, Y, Z)``, or None if the path is not a reference.

    The axes are those of a picture: X runs along its rows. For a volume, Z is the archive's first axis, along which
    MedMNIST shows slices: slice z of the volume equals that slice saved as a picture.

    The archive is memory-mapped, see ``monai_weckd.data.npz.map_array``.

    Args:
        reference: ``<archive>.npz::<split>/<index>``.

    Raises:
        FileNotFoundError: When there is no such archive.
        ValueError: When the archive is damaged, or has no such image.

    """
    found = parse_reference(reference)
    if found is None:
        return None
    images = map_array(found.archive, f"{found.split}_images")
    if found.number >= len(images):
        raise ValueError(f"{reference}: expected an index below {len(images)}, got {found.number}. Correct it.")
    claim(images[0].nbytes, name=reference)
    image = np.asarray(images[found.number])
    return image.transpose(2, 1, 0) if _is_rgb(images.shape) else image.T[None]


def archive_split(path: str) -> str:
    """Return the archive and split of a reference; return any other path unchanged.

    Args:
        path: path or reference of an image.

    Example::

        >>> archive_split("bloodmnist.npz::train/12"), archive_split("ear.png")
        ('bloodmnist.npz::train', 'ear.png')

    """
    found = parse_reference(path)
    return path if found is None else f"{found.archive}::{found.split}"


def check_split(path: str) -> bool:
    """Read all images of one split of an archive and verify their checksum; return whether the path is such a split.

    Args:
        path: result of :py:func:`archive_split`.

    Raises:
        ValueError: When the images cannot be read.

    """
    found = parse_reference(f"{path}/0")
    if found is not None:
        check_array(found.archive, f"{found.split}_images")
    return found is not None


def download_hint(name: str | os.PathLike[str]) -> str | None:
    """Explain how to download the MedMNIST archive of a name; None if the name does not follow MedMNIST's pattern.

    Args:
        name: a name such as ``bloodmnist``, ``organmnist3d_64`` or the path of such an archive.

    """
    found = _NAME.fullmatch(PurePath(name).name.lower())
    if found is None:
        return None
    flag, size = found["flag"], found["size"]
    archive = f"{flag}_{size}.npz" if size else f"{flag}.npz"
    kind = _info(flag).get("python_class")
    if kind is None:
        return f"Download {archive} with the package medmnist, and pass its path."
    options = f"'train', download=True, root='.', size={size or 28}"
    return f'Run python -c "import medmnist; medmnist.{kind}({options})", and pass the path of {archive}.'


def parse_reference(path: str) -> Reference | None:
    """Parse a reference into archive, split and number; return None for any other path.

    Args:
        path: a path, or ``<archive>.npz::<split>/<index>``.

    """
    # a quick check first: most paths are not references, and a session parses thousands of them
    found = _REFERENCE.fullmatch(path) if "::" in path else None
    return found and Reference(found["archive"], found["split"], int(found["number"]))


def _labels(path: str, split: str) -> list[int]:
    """Return the labels of one split, one for each of its images."""
    labels, count = _read_labels(path, split)
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise ValueError(
            f"{path}: expected one label for each image, got {labels.shape[1]}. Pass findings=True, or use the bundle "
            "chest_xray_chain_classification."
        )
    if labels.size != count or labels.dtype.kind not in "ui" or (labels < 0).any():
        raise ValueError(
            f"{path}: expected {count} labels from 0 up in {split}_labels, got {labels.shape} {labels.dtype}. "
            "Pass an archive of MedMNIST."
        )
    return labels.ravel().tolist()


def _findings(path: str, split: str) -> np.ndarray:
    """Return the findings of one split, (N, F), float32, 1 where one is present and 0 where it is absent."""
    labels, count = _read_labels(path, split)
    if labels.ndim != 2 or len(labels) != count or labels.dtype.kind not in "uib" or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"{path}: expected 0 or 1 for each finding of {count} images in {split}_labels, got {labels.shape} "
            f"{labels.dtype}. Pass an archive with findings, such as chestmnist, or leave findings=True out."
        )
    return labels.astype(np.float32)


def _read_labels(path: str, split: str) -> tuple[np.ndarray, int]:
    """Return the labels of one split as they are, and the number of its images."""
    images, kind = array_header(path, f"{split}_images")
    labels = read_array(path, f"{split}_labels")
    if len(images) not in (3, 4) or kind.kind not in "uif":
        raise ValueError(
            f"{path}: expected {split}_images (N, Y, X), (N, Y, X, 3) or (N, Z, Y, X), got {images} {kind}. "
            "Pass an archive of MedMNIST."
        )
    claim(_ITEM * len(labels), name=path)
    return labels, images[0]


def _finding_names(path: str, counts: set[int], classes: Sequence[str] | None) -> tuple[str, ...]:
    count = max(counts)
    names = tuple(_known_names(path) if classes is None else classes)
    names = names or tuple(f"{finding:0{len(str(count - 1))}d}" for finding in range(count))
    if counts != {len(names)} or len(set(names)) < len(names):
        raise ValueError(
            f"classes: expected a distinct name for each of {sorted(counts)} findings, got {names}. Name each finding."
        )
    return names


def _class_names(path: str, count: int, classes: Sequence[str] | None) -> tuple[str, ...]:
    names = tuple(_known_names(path) if classes is None else classes)
    if not names:
        names = tuple(f"{label:0{len(str(count - 1))}d}" for label in range(count))  # so that sorting keeps the order
    if len(names) < max(count, 2) or len(set(names)) < len(names):
        raise ValueError(
            f"classes: expected a distinct name for each of {max(count, 2)} labels, got {names}. Name each label."
        )
    return names


def _known_names(path: str) -> tuple[str, ...]:
    found = _NAME.fullmatch(PurePath(path).name.lower())
    labels = _info(found["flag"]).get("label", {}) if found else {}
    return tuple(labels[key] for key in sorted(labels, key=int))


def _info(flag: str) -> dict[str, Any]:
    """Return what the package medmnist knows about a data set; empty if it is not installed."""
    try:
        from medmnist.info import INFO
    except ImportError:
        return {}
    return INFO.get(flag, {})


def _is_rgb(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[3] == 3
