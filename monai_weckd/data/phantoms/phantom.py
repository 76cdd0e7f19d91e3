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

"""Write a complete phantom: images, manifest and a note on its origin."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from monai_weckd.data.phantoms.blood_smear import LEUKOCYTES, draw_cell
from monai_weckd.data.phantoms.brain import BRAIN_FINDINGS, scan_slice, scan_volume
from monai_weckd.data.phantoms.chest import CHEST_FINDINGS, CHEST_PATTERNS, draw_chest
from monai_weckd.data.phantoms.items import PhantomItem, phantom_items
from monai_weckd.data.phantoms.otoscopy import EAR_FINDINGS, draw_ear
from monai_weckd.data.phantoms.writers import write_picture, write_slice, write_volume
from monai_weckd.utils.messages import nearest

__all__ = ["is_phantom", "make_phantom"]

# splits of the groups of a class, in turn: with three groups for each class, every split has every class
_SPLITS = ("train", "test", "val", "train", "train")


@dataclass(frozen=True)
class _Recipe:
    """The definition of a kind of phantom: its classes, its groups and the writer of its files.

    With ``findings``, the classes are the combinations of them that patients show.
    """

    classes: tuple[str, ...]
    group: str
    sizes: tuple[int, int]
    file: str
    write: Callable[[Path, PhantomItem], None]
    findings: tuple[str, ...] = ()


def _write_ear(path: Path, item: PhantomItem) -> None:
    write_picture(path, draw_ear(item.label, item.of_group(), item.of_item()))


def _write_cell(path: Path, item: PhantomItem) -> None:
    write_picture(path, draw_cell(item.label, item.of_group(), item.of_item()))


def _write_brain_slice(path: Path, item: PhantomItem) -> None:
    write_slice(path, scan_slice(item.label, item.of_group(), item.of_item(), item.index), item)


def _write_brain_volume(path: Path, item: PhantomItem) -> None:
    write_volume(path, *scan_volume(item.label, item.of_group(), item.of_item()))


def _write_chest(path: Path, item: PhantomItem) -> None:
    write_picture(path, draw_chest(item.label, item.of_group(), item.of_item()))


_RECIPES = {
    "otoscopy": _Recipe(EAR_FINDINGS, "ear", (2, 4), "{group}_{place}.png", _write_ear),
    "blood_smear": _Recipe(LEUKOCYTES, "smear", (2, 4), "{group}_{place}.png", _write_cell),
    "brain_mri": _Recipe(BRAIN_FINDINGS, "patient", (2, 4), "{group}/{place:03d}.dcm", _write_brain_slice),
    "brain_mri_3d": _Recipe(BRAIN_FINDINGS, "patient", (1, 2), "{group}_{place}.nii.gz", _write_brain_volume),
    "chest_xray": _Recipe(CHEST_PATTERNS, "patient", (2, 4), "{group}_{place}.png", _write_chest, CHEST_FINDINGS),
}

_TITLE = "# A synthetic phantom, not data of patients"
_SOURCE = """\
{title}

Every image here was drawn by a program. The set shows that software runs from end to end and learns what it is shown.
It proves nothing about patients: no accuracy reached here says anything about accuracy on real images.

- Made by: monai_weckd, `make_phantom({kind!r}, ..., items={items}, seed={seed})`
- Kind: {kind}, seed {seed}, {items} items in {groups} groups
- {what}: {classes}
- `manifest.csv` has {columns}. Images of a group share more than their class: never split a group.
"""


def make_phantom(kind: str, out: str | Path, *, items: int = 240, seed: int = 0) -> Path:
    """Write a synthetic labeled image set, to try the software without data; it proves nothing about patients.

    Classes differ by structure, while light, pose, color, gain, blur and noise vary alike in all of them. Images of a
    group (an ear, a smear, a patient) share anatomy and light, so that a split within groups leaks. The same arguments
    give the same bytes (with the same versions of NumPy, Pillow, nibabel and pydicom), and a smaller set is the
    beginning of a larger one.

    Args:
        kind: ``otoscopy`` (RGB PNG, 128 x 128: normal, earwax_plug, myringosclerosis, chronic_otitis_media),
            ``blood_smear`` (RGB PNG, 96 x 96: lymphocyte, monocyte, neutrophil, eosinophil),
            ``brain_mri`` (DICOM slices, 128 x 128: no_tumor, glioma, meningioma),
            ``brain_mri_3d`` (NIfTI volumes, 40 x 48 x 40, the same classes) or
            ``chest_xray`` (gray PNG, 128 x 128, with several of the findings cardiomegaly, effusion and nodule, of
            which the first two are correlated; some are said to be unknown).
        out: an empty or new folder; gets ``<class>/...`` (``images/...`` for findings), ``manifest.csv``
            (file,label,group,split, or columns ``finding:<name>`` in place of label) and ``SOURCE.md``.
        items: number of images, spread evenly over the classes, default 240.
        seed: seed of everything drawn, default 0.

    Returns:
        The folder.

    Raises:
        ValueError: When ``kind`` is unknown, there are fewer items than classes, ``seed`` is below 0, or ``out``
            is a file or a folder that is not empty.

    Example::

        >>> import tempfile
        >>> folder = make_phantom("otoscopy", tempfile.mkdtemp(), items=4)
        >>> print((folder / "manifest.csv").read_text())
        file,label,group,split
        normal/ear_0001_1.png,normal,ear_0001,train
        earwax_plug/ear_0002_1.png,earwax_plug,ear_0002,train
        myringosclerosis/ear_0003_1.png,myringosclerosis,ear_0003,train
        chronic_otitis_media/ear_0004_1.png,chronic_otitis_media,ear_0004,train

    """
    out = Path(out)
    _check(kind, out, items, seed)
    recipe = _RECIPES[kind]
    rows = []
    for item in phantom_items(kind, items, seed, classes=recipe.classes, group=recipe.group, sizes=recipe.sizes):
        folder = "images" if recipe.findings else item.label
        file = f"{folder}/{recipe.file.format(group=item.group, place=item.index + 1)}"
        path = out / file
        path.parent.mkdir(parents=True, exist_ok=True)
        recipe.write(path, item)
        split = _SPLITS[(item.number - 1) // len(recipe.classes) % len(_SPLITS)]
        rows.append((file, *_label_cells(recipe, item), item.group, split))
    titles = [f"finding:{name}" for name in recipe.findings] or ["label"]
    header = ["file", *titles, "group", "split"]
    with open(out / "manifest.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    source = _SOURCE.format(
        title=_TITLE,
        kind=kind,
        items=items,
        seed=seed,
        groups=len({row[-2] for row in rows}),
        what="Findings, several of which an image may show" if recipe.findings else "Classes",
        classes=", ".join(recipe.findings or recipe.classes),
        columns=f"{', '.join(header[:-1])} and {header[-1]}",
    )
    (out / "SOURCE.md").write_text(source, encoding="utf-8")
    return out


def _label_cells(recipe: _Recipe, item: PhantomItem) -> list[str]:
    """Return what the manifest says about an image: its class, or 1, 0 or nothing for each finding."""
    if not recipe.findings:
        return [item.label]
    shown = item.label.split("|")
    # every fifth patient's last finding is unknown, as some are in every real set
    known = len(recipe.findings) - (item.number % 5 == 0)
    return [str(int(name in shown)) if place < known else "" for place, name in enumerate(recipe.findings)]


def is_phantom(dataset_dir: str | Path) -> bool:
    """Tell whether a folder was written by :py:func:`make_phantom`.

    Args:
        dataset_dir: any folder.

    """
    source = Path(dataset_dir) / "SOURCE.md"
    return source.is_file() and source.read_text(encoding="utf-8").startswith(_TITLE)


def _check(kind: str, out: Path, items: int, seed: int) -> None:
    """Refuse wrong arguments before anything is written."""
    if kind not in _RECIPES:
        raise ValueError(f"kind: expected a kind of phantom, got {kind!r}. {nearest(kind, list(_RECIPES))}")
    classes = len(_RECIPES[kind].classes)
    if items < classes:
        raise ValueError(f"items: expected at least {classes}, one for each class, got {items}. Ask for more.")
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, got {seed}. Pass another seed.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "a folder that is not empty" if out.is_dir() else "a file"
        raise ValueError(f"out: expected an empty or new folder, got {what}: {out}. Name another folder.")
