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

"""Verify that every image can be read before training starts."""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import os
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from monai_weckd.data.datalist import Datalist, load_datalist
from monai_weckd.data.dicom.references import folder_of
from monai_weckd.data.duplicates import duplicate_notes, parted
from monai_weckd.data.image_files import image_files
from monai_weckd.data.item_level import group_images
from monai_weckd.data.medmnist import archive_split, check_split, parse_reference
from monai_weckd.utils.errors import plain_reason
from monai_weckd.utils.messages import nearest, printable
from monai_weckd.utils.progress import progress
from monai_weckd.utils.system import available_processors

if TYPE_CHECKING:
    import numpy as np

    from monai_weckd.data.prepared import Preparation

__all__ = ["find_faults", "has_fault", "image_state", "known_state", "read_datalist", "verify_images"]

logger = logging.getLogger(__name__)

# by path of an image: the state of its files when this process read it, and its fault under each recipe of transforms;
# kept, because one process may run many trainings on the same images
_known: dict[str, tuple[tuple[Any, ...], dict[str, str | None]]] = {}

# a digest of some of their pixels
_pixels: dict[str, int] = {}

_SAMPLE = 1 << 8  # pixels of an image that are compared before all are
_MODES = ("error", "skip")


def read_datalist(
    dataset_dir: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    split_file: str | os.PathLike[str] | None = None,
    on_bad_item: str = "error",
    transform: Callable | None = None,
    spatial_dims: int | None = None,
    findings: bool = False,
    item_level: str = "image",
) -> Datalist:
    """List the items of a data set, and verify that every image can be read and prepared for training.

    Args:
        dataset_dir: see :py:func:`load_datalist`.
        classes: see :py:func:`load_datalist`; the data set may lack some.
        split_file: see :py:func:`load_datalist`.
        on_bad_item: see :py:func:`verify_images`.
        transform: see :py:func:`verify_images`.
        spatial_dims: see :py:func:`load_datalist` and :py:func:`verify_images`.
        findings: see :py:func:`load_datalist`.
        item_level: see :py:func:`monai_weckd.data.group_images`; default "image": each image is an item.

    Raises:
        ValueError: When the data set is not as :py:func:`load_datalist` describes it, an image cannot be used, or the
            images of an item have several labels.

    """
    datalist = load_datalist(
        dataset_dir, classes=classes, split_file=split_file, spatial_dims=spatial_dims, findings=findings
    )
    grouped = group_images(datalist, item_level, dataset_dir)
    for text in filter(None, (grouped.layout, datalist.passed_over.text())):
        logger.info(text)
    verified = verify_images(datalist, on_bad_item=on_bad_item, transform=transform, spatial_dims=spatial_dims)
    return group_images(verified, item_level, dataset_dir)


def verify_images(
    datalist: Datalist,
    *,
    on_bad_item: str = "error",
    transform: Callable | None = None,
    spatial_dims: int | None = None,
) -> Datalist:
    """Read every image once, as training does; raise an error for unusable items, or leave them out.

    The reader is :py:func:`monai_weckd.data.image_reader.read_image`, so its errors appear here, before anything is
    trained or written. For compressed NIfTI, and for each split of a MedMNIST archive, the checksum is verified as
    well. Files that this process has read before and that have not changed since are not read again. Byte-identical
    images with different labels, splits or groups are reported in the log, and so are images of the same pixels.
    With ``transform``, an image that the transform refuses counts as unreadable; see
    :py:class:`monai_weckd.data.prepared.Preparation`.

    Args:
        datalist: result of :py:func:`monai_weckd.data.load_datalist`.
        on_bad_item: "error" raises, "skip" leaves the bad items out and lists them in ``skipped``. Default "error".
        transform: the deterministic transforms of the training, default None: images are only read.
        spatial_dims: number of spatial dimensions of the network's input, default None: any.

    Raises:
        ValueError: When ``on_bad_item`` is unknown.
        ValueError: When ``on_bad_item`` is "error" and an image cannot be used.

    """
    if on_bad_item not in _MODES:
        raise ValueError(f"on_bad_item: expected one of {_MODES}, got {on_bad_item!r}. {nearest(on_bad_item, _MODES)}")
    for note in duplicate_notes(datalist.items, datalist.classes):
        logger.warning(note)
    preparation = None
    if transform is not None:
        # imported here, because listing and planning do not need torch
        from monai_weckd.data.prepared import Preparation

        preparation = Preparation(transform, spatial_dims)
    bad = find_faults(datalist.items, preparation)
    alike = partial(_alike_pixels, [item["image"] for item in datalist.items])
    for note in duplicate_notes(datalist.items, datalist.classes, alike=alike):
        logger.warning(note)
    if not bad:
        return datalist
    name, fault = next(iter(bad.items()))
    if on_bad_item == "error":
        raise ValueError(
            f"image: expected readable files, got {len(bad)} that are not, first {name!r}: {fault} "
            "To go on without such items, pass on_bad_item='skip'."
        )
    names = ", ".join(map(printable, bad))
    logger.warning("left out %d unreadable items, first %r: %s All: %s", len(bad), name, fault, names)
    items = [item for item in datalist.items if item["id"] not in bad]
    return datalist._replace(items=items, skipped=(*datalist.skipped, *bad))


def find_faults(items: Sequence[Mapping[str, Any]], preparation: Preparation | None = None) -> dict[str, str]:
    """Read every image once, and return the ids of the unusable ones, each with its fault.

    Args:
        items: dictionaries with ``id`` and ``image``.
        preparation: what training does with an image, default None: it is only read.

    """
    recipe = "" if preparation is None else preparation.recipe
    # the images of one split of an archive are checked together
    splits = [archive_split(item["image"]) for item in items]
    for path in dict.fromkeys(splits):
        state = image_state(path)
        if _known.get(path, (None,))[0] != state:
            _known[path] = state, {}
    new = [path for path in dict.fromkeys(splits) if recipe not in _known[path][1]]
    if new:
        # memory holds several volumes at a time, but not one for each processor of a large machine
        with ThreadPoolExecutor(max_workers=min(8, available_processors())) as pool:
            faults = pool.map(partial(_fault, preparation=preparation), new)
            found = progress(zip(new, faults, strict=True), "verifying", total=len(new), unit="files")
            for path, fault in found:
                _known[path][1][recipe] = fault
    return {item["id"]: fault for item, path in zip(items, splits, strict=True) if (fault := _known[path][1][recipe])}


def image_state(path: str) -> tuple[Any, ...]:
    """Return sizes and times of an image's files, to detect changes; the text of the error if they cannot be read.

    Args:
        path: a file, a folder of files, an archive's split, or an image of it.

    """
    path = folder_of(path)
    try:
        return tuple(map(_state, image_files(path))) if os.path.isdir(path) else (_state(path),)
    except OSError as error:
        return (str(error),)


def has_fault(path: str) -> bool:
    """Return whether :py:func:`find_faults` has found a fault of an image, under any transforms; it reads no file.

    Args:
        path: as for :py:func:`image_state`.

    """
    return any(_known.get(archive_split(path), ((), {}))[1].values())


def known_state(path: str) -> tuple[Any, ...]:
    """Return an image's state when :py:func:`find_faults` last read it, else its present state.

    Args:
        path: as for :py:func:`image_state`.

    """
    found = _known.get(archive_split(path))
    return image_state(path) if found is None else found[0]


def _state(path: str) -> tuple[str, int, int]:
    found = parse_reference(f"{archive_split(path)}/0")
    status = os.stat(path if found is None else found.archive)
    return path, status.st_size, status.st_mtime_ns


def _fault(path: str, preparation: Preparation | None) -> str | None:
    """Return the fault of an image, or of the images in a folder, and the remedy; None if there is no fault."""
    # imported here, because listing and planning do not need torch
    from monai_weckd.data.image_reader import read_image

    image = path
    try:
        # one image stands for all of an archive, because they have one shape
        image = f"{path}/0" if check_split(path) else path
        if image == path or preparation is not None:
            array, meta = read_image(image)
            if image == path:
                _pixels[path] = _sample_digest(array)
        if path.lower().endswith(".gz"):
            _check_gzip(path)
        if preparation is not None:
            preparation.check(image, array, meta)
    except (zlib.error, gzip.BadGzipFile, EOFError) as error:
        return f"cannot be decoded ({plain_reason(error)}). Repair the file or leave it out."
    except OSError as error:
        if error.strerror:
            return _unreadable(error)
        return _without_name(error, image)
    except ValueError as error:
        return _without_name(error, image)
    return None


def _alike_pixels(images: Sequence[str], copies: Sequence[Collection[str]]) -> list[list[str]]:
    """Return the sets of images that have the same pixels, without those whose files are the same."""
    likely = parted(dict.fromkeys(images), _pixels.get)
    others = (part for part in likely if not any(same.issuperset(part) for same in map(set, copies)))
    sets = (found for part in others for found in parted(part, lambda path: _pixel_digest(path, known_state(path))))
    return [found for found in sets if not any(same.issuperset(found) for same in map(set, copies))]


def _sample_digest(array: np.ndarray) -> int:
    """Return a digest of some pixels, for this process: one of all would take a quarter of the time of decoding."""
    # the same share of each axis but the channels, as a view: to put all pixels in a row would copy them
    step = math.ceil((array.size / len(array) / _SAMPLE) ** (1 / max(1, array.ndim - 1)))
    places = (slice(None), *[slice(None, None, step)] * (array.ndim - 1))
    return hash((array.shape, array.dtype.str, array[places].tobytes()))


@lru_cache(maxsize=1 << 16)
def _pixel_digest(path: str, state: tuple[Any, ...]) -> bytes | None:
    """Return a digest of all pixels of an image that has this state.

    None if it cannot be read, or is blank: blank images are many, and no copies.
    """
    from monai_weckd.data.image_reader import read_image

    try:
        pixels = read_image(path)[0]
        return hashlib.blake2b(pixels.tobytes()).digest() if pixels.min() < pixels.max() else None
    except (ValueError, OSError):  # it has changed since
        return None


def _without_name(error: Exception, image: str) -> str:
    return " ".join(str(error).removeprefix(f"{image}: ").split())


def _check_gzip(path: str) -> None:
    """Read a compressed file to its end, because its checksum comes after the part that nibabel reads."""
    with gzip.open(path) as stream:
        while stream.read(1 << 20):
            pass


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror or error}). Check that it exists and is readable, or leave it out."
