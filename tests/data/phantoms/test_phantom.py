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

import csv
import gzip
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from monai_weckd.data.phantoms import is_phantom, make_phantom
from monai_weckd.data.phantoms.brain import VOLUME_RADIUS, scan_slice
from monai_weckd.data.phantoms.head import Head, head_pose, head_signal
from monai_weckd.data.phantoms.items import PhantomItem, phantom_items

KINDS = {"otoscopy": 4, "blood_smear": 4, "brain_mri": 3, "brain_mri_3d": 3}
GROUP_SIZES = {"otoscopy": (2, 4), "blood_smear": (2, 4), "brain_mri": (2, 4), "brain_mri_3d": (1, 2)}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> dict[str, Path]:
    """One phantom of each kind, large enough to fit a linear classifier to."""
    root = tmp_path_factory.mktemp("phantoms")
    return {kind: make_phantom(kind, root / kind, items=30 if kind == "brain_mri_3d" else 60) for kind in KINDS}


def manifest(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def pixels(path: Path) -> np.ndarray:
    """Read an image as an array with its channels last."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path), dtype=float)
    if path.suffix == ".dcm":
        return pydicom.dcmread(path).pixel_array[..., None].astype(float)
    return np.asarray(nib.load(path).dataobj, dtype=float)[..., None]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_unknown_kind_names_the_nearest(tmp_path):
    with pytest.raises(
        ValueError, match=r"^kind: expected a kind of phantom, got 'otoscop'. Did you mean 'otoscopy'\?"
    ):
        make_phantom("otoscop", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_items_than_classes(tmp_path, kind):
    with pytest.raises(ValueError, match=f"^items: expected at least {KINDS[kind]}, one for each class, got 2. Ask"):
        make_phantom(kind, tmp_path / "new", items=2)
    assert not (tmp_path / "new").exists()


def test_negative_seed(tmp_path):
    with pytest.raises(ValueError, match=r"^seed: expected 0 or more, got -1. Pass another seed.$"):
        make_phantom("otoscopy", tmp_path / "new", seed=-1)


def test_folder_in_use(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"^out: expected an empty or new folder, got a folder that is not empty: .*"):
        make_phantom("otoscopy", tmp_path, items=4)
    with pytest.raises(
        ValueError, match=r"^out: expected an empty or new folder, got a file: .*note.txt. Name another"
    ):
        make_phantom("otoscopy", tmp_path / "note.txt", items=4)
    assert contents(tmp_path) == {"note.txt": b"mine"}


def test_returns_the_folder(tmp_path):
    assert make_phantom("blood_smear", str(tmp_path), items=4) == tmp_path
    assert make_phantom("blood_smear", tmp_path / "a" / "b", items=4) == tmp_path / "a" / "b"


@pytest.mark.parametrize("kind", KINDS)
def test_same_bytes_again_and_others_for_another_seed(tmp_path, kind):
    first, again, other = (
        contents(make_phantom(kind, tmp_path / name, items=6, seed=seed))
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again
    images = [name for name in first if "/" in name]
    assert len(images) == 6
    assert not {first[name] for name in images} & set(other.values())
    assert len({first[name] for name in images}) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_items_are_the_beginning_of_more(tmp_path, phantoms, kind):
    few, many = contents(make_phantom(kind, tmp_path / "few", items=7)), contents(phantoms[kind])
    assert manifest(tmp_path / "few") == manifest(phantoms[kind])[:7]
    assert all(many[name] == data for name, data in few.items() if "/" in name)


@pytest.mark.parametrize("kind", KINDS)
def test_manifest_lists_every_image(phantoms, kind):
    rows = manifest(phantoms[kind])
    assert list(rows[0]) == ["file", "label", "group", "split"]
    assert all(row["file"].startswith(row["label"] + "/") and "\\" not in row["file"] for row in rows)
    files = {row["file"] for row in rows} | {"manifest.csv", "SOURCE.md"}
    assert files == {p.relative_to(phantoms[kind]).as_posix() for p in phantoms[kind].rglob("*") if p.is_file()}


def test_brain_slices_lie_in_a_folder_for_each_patient(phantoms):
    for row in manifest(phantoms["brain_mri"]):
        label, patient, name = row["file"].split("/")
        assert (label, patient) == (row["label"], row["group"])
        assert name.endswith(".dcm")


@pytest.mark.parametrize("kind", KINDS)
def test_source_says_what_it_is(phantoms, kind):
    text = (phantoms[kind] / "SOURCE.md").read_text(encoding="utf-8")
    count = len(manifest(phantoms[kind]))
    assert "synthetic phantom" in text
    assert "proves nothing about patients" in text
    assert f"make_phantom('{kind}', ..., items={count}, seed=0)" in text


@pytest.mark.parametrize("count", [4, 10, 240, 243])
def test_items_spread_evenly(count):
    items = phantom_items("otoscopy", count, 0, classes=("a", "b", "c", "d"), group="ear", sizes=(2, 4))
    labels = Counter(item.label for item in items)
    assert len(items) == sum(labels.values()) == count
    assert max(labels.values()) - min(labels.values()) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_groups_hold_several_items_of_one_class(phantoms, kind):
    rows = manifest(phantoms[kind])
    assert len({(row["group"], row["label"]) for row in rows}) == len({row["group"] for row in rows})
    sizes = Counter(row["group"] for row in rows)
    last = {row["label"]: row["group"] for row in rows}.values()
    low, high = GROUP_SIZES[kind]
    assert all(low <= size <= high for group, size in sizes.items() if group not in last)
    assert len(rows) / len(sizes) > 1.2


def test_every_generator_is_its_own():
    items = [
        PhantomItem(*names)
        for names in (
            ("otoscopy", 0, "a", "ear_0001", 1, 0),
            ("otoscopy", 0, "a", "ear_0001", 1, 1),
            ("otoscopy", 0, "a", "ear_0002", 2, 0),
            ("otoscopy", 1, "a", "ear_0001", 1, 0),
            ("blood_smear", 0, "a", "ear_0001", 1, 0),
        )
    ]
    own = {item.of_item().random() for item in items}
    shared = [item.of_group().random() for item in items]
    assert len(own) == 5
    assert shared[0] == shared[1]
    assert len(set(shared)) == 4
    assert not own & set(shared)


@pytest.mark.parametrize("kind", KINDS)
def test_light_or_gain_gives_the_group_away(phantoms, kind):
    rows = manifest(phantoms[kind])
    mean = np.log([pixels(phantoms[kind] / row["file"]).mean() for row in rows])
    groups = np.array([row["group"] for row in rows])
    within = np.mean([mean[groups == g].var(ddof=1) for g in np.unique(groups) if (groups == g).sum() > 1])
    assert within < 0.6 * mean.var(ddof=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("statistic", ["mean", "std"])
def test_one_pixel_statistic_does_not_tell_the_classes(phantoms, kind, statistic):
    rows = manifest(phantoms[kind])
    images = [pixels(phantoms[kind] / row["file"]) for row in rows]
    features = np.array([getattr(i.reshape(-1, i.shape[-1]), statistic)(0) for i in images])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=100.0, max_iter=5000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    labels, groups = [row["label"] for row in rows], [row["group"] for row in rows]
    accuracy = cross_val_score(classifier, features, labels, groups=groups, cv=folds).mean()
    assert accuracy < 0.70


@pytest.mark.parametrize(("kind", "size"), [("otoscopy", 128), ("blood_smear", 96)])
def test_pictures_are_rgb(phantoms, kind, size):
    for row in manifest(phantoms[kind])[:8]:
        with Image.open(phantoms[kind] / row["file"]) as picture:
            assert (picture.mode, picture.size, picture.format) == ("RGB", (size, size), "PNG")
            assert np.asarray(picture).std() > 10


@pytest.fixture
def strict_dicom(monkeypatch):
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)


def read_series(folder: Path) -> dict[str, list[pydicom.Dataset]]:
    series: dict[str, list[pydicom.Dataset]] = {}
    for row in manifest(folder):
        series.setdefault(row["group"], []).append(pydicom.dcmread(folder / row["file"]))
    return series


def test_dicom_identity(phantoms, strict_dicom):
    series = read_series(phantoms["brain_mri"])
    for patient, slices in series.items():
        assert {d.PatientID for d in slices} == {patient}
        for key in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            assert len({d[key].value for d in slices}) == 1
        assert [d.InstanceNumber for d in slices] == list(range(1, len(slices) + 1))
    everything = [d for slices in series.values() for d in slices]
    uids = [d.SOPInstanceUID for d in everything] + [s[0].SeriesInstanceUID for s in series.values()]
    uids += [s[0].StudyInstanceUID for s in series.values()]
    assert len(set(uids)) == len(uids)
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in uids)
    assert all(d.file_meta.MediaStorageSOPInstanceUID == d.SOPInstanceUID for d in everything)


def test_dicom_pixels(phantoms, strict_dicom):
    for slices in read_series(phantoms["brain_mri"]).values():
        for d in slices:
            assert (d.Modality, d.PhotometricInterpretation, d.SamplesPerPixel) == ("MR", "MONOCHROME2", 1)
            assert (d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation) == (16, 16, 15, 0)
            assert d.pixel_array.shape == (128, 128)
            assert d.pixel_array.dtype == np.uint16
            assert d.pixel_array.max() > 255


def test_dicom_geometry_of_a_series(phantoms, strict_dicom):
    for slices in read_series(phantoms["brain_mri"]).values():
        assert len({(*d.ImageOrientationPatient, *d.PixelSpacing, d.SliceThickness) for d in slices}) == 1
        row, column = np.reshape(np.array(slices[0].ImageOrientationPatient, dtype=float), (2, 3))
        np.testing.assert_allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-9)
        positions = np.array([d.ImagePositionPatient for d in slices], dtype=float)
        steps = np.diff(positions, axis=0)
        thickness = float(slices[0].SliceThickness)
        # stacked along the normal, feet to head, one touching the next
        np.testing.assert_allclose(steps, np.tile(np.cross(row, column) * thickness, (len(steps), 1)), atol=1e-6)


def correlation(points: np.ndarray, head: Head, pose: tuple[np.ndarray, np.ndarray], seen: np.ndarray) -> float:
    """Correlate pixels with the signal of the same head at the places where the file's geometry puts them."""
    frame, shift = pose
    return float(np.corrcoef(head_signal((points - shift) @ frame, head).ravel(), seen.ravel())[0, 1])


def test_dicom_geometry_tells_where_the_anatomy_is(phantoms):
    folder = phantoms["brain_mri"]
    items = phantom_items(
        "brain_mri", 60, 0, classes=("no_tumor", "glioma", "meningioma"), group="patient", sizes=(2, 4)
    )
    for item, row in list(zip(items, manifest(folder), strict=True))[:9]:
        d = pydicom.dcmread(folder / row["file"])
        # PS3.3 C.7.6.2.1.1: the place of a pixel from position, orientation and spacing
        along, down = np.reshape(np.array(d.ImageOrientationPatient, dtype=float), (2, 3))
        i, j = np.meshgrid(np.arange(128), np.arange(128))
        lps = np.array(d.ImagePositionPatient, dtype=float) + (
            i[..., None] * along * float(d.PixelSpacing[1]) + j[..., None] * down * float(d.PixelSpacing[0])
        )
        group = item.of_group()
        head = Head.draw(item.label, group)
        assert correlation(lps * [-1, -1, 1], head, head_pose(group), d.pixel_array) > 0.97


def test_nifti_affine_tells_where_the_anatomy_is(phantoms):
    folder = phantoms["brain_mri_3d"]
    items = phantom_items(
        "brain_mri_3d", 30, 0, classes=("no_tumor", "glioma", "meningioma"), group="patient", sizes=(1, 2)
    )
    for item, row in list(zip(items, manifest(folder), strict=True))[:6]:
        image = nib.load(folder / row["file"])
        index = np.moveaxis(np.indices(image.shape), 0, -1)
        points = nib.affines.apply_affine(image.affine, index)
        head = Head.draw(item.label, item.of_group(), radius=VOLUME_RADIUS)
        assert correlation(points, head, head_pose(item.of_item()), np.asarray(image.dataobj)) > 0.97


def test_nifti_headers(phantoms):
    orientations = set()
    for row in manifest(phantoms["brain_mri_3d"]):
        image = nib.load(phantoms["brain_mri_3d"] / row["file"])
        assert image.shape == (40, 48, 40)
        assert image.get_data_dtype() == np.int16
        assert image.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(nib.affines.voxel_sizes(image.affine), [4.2, 4.4, 5.0], rtol=1e-5)
        np.testing.assert_allclose(image.header.get_zooms(), [4.2, 4.4, 5.0], rtol=1e-5)
        # a quaternion in float32 is exact to some 1e-3 only
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-2)
        off_axis = image.affine[:3, :3] - np.diag(np.diag(image.affine))[:3, :3]
        assert np.abs(off_axis).max() > 1e-3
        orientations.add("".join(nib.aff2axcodes(image.affine)))
    assert orientations == {"RAS", "LAS", "LPS"}


def test_nifti_has_no_time_stamp(phantoms):
    for row in manifest(phantoms["brain_mri_3d"])[:3]:
        data = (phantoms["brain_mri_3d"] / row["file"]).read_bytes()
        # RFC 1952: bytes 4 to 7 hold the time, 0 for none; bit 3 of byte 3 would announce a file name
        assert data[:2] == b"\x1f\x8b"
        assert data[4:8] == b"\0\0\0\0"
        assert not data[3] & 8
        assert len(gzip.decompress(data)) == 352 + 40 * 48 * 40 * 2


@pytest.mark.parametrize("kind", ["glioma", "meningioma"])
def test_a_tumor_changes_the_head_where_it_is_and_only_there(kind):
    grid = np.stack(np.meshgrid(*[np.arange(-80.0, 81.0, 4.0)] * 3, indexing="ij"), axis=-1)
    for seed in range(5):
        head = Head.draw(kind, np.random.default_rng(seed))
        healthy = replace(head, lesion=replace(head.lesion, kind="no_tumor"))
        change = np.abs(head_signal(grid, head) - head_signal(grid, healthy))
        rho = np.linalg.norm(grid - head.lesion.center, axis=-1) / head.lesion.radius
        assert change[rho < 0.9].mean() > 0.1
        assert change[rho > 4.5].max() < 0.05


def test_every_slice_of_a_patient_shows_the_tumor():
    item = PhantomItem("brain_mri", 0, "meningioma", "patient_0003", 3, 0)
    for number in range(12):
        rngs = [np.random.default_rng([5, number]) for _ in range(2)]
        head = Head.draw("meningioma", rngs[0])
        frame, shift = head_pose(rngs[0])
        center = (frame @ head.lesion.center + shift) * [-1, -1, 1]
        for index in range(4):
            scan = scan_slice("meningioma", np.random.default_rng([5, number]), item.of_item(), index)
            normal = np.cross(scan.orientation[:3], scan.orientation[3:])
            assert abs(normal @ (center - scan.position)) < 0.65 * head.lesion.radius


@pytest.mark.parametrize("kind", KINDS)
def test_splits_have_every_class_and_part_no_group(phantoms, kind):
    rows = manifest(phantoms[kind])
    assert len({(row["group"], row["split"]) for row in rows}) == len({row["group"] for row in rows})
    classes = {row["label"] for row in rows}
    for split in ("train", "val", "test"):
        assert {row["label"] for row in rows if row["split"] == split} == classes


def test_a_phantom_can_be_told_from_data(phantoms, tmp_path):
    assert is_phantom(phantoms["otoscopy"])
    assert not is_phantom(tmp_path)
    (tmp_path / "SOURCE.md").write_text("# Images of patients")
    assert not is_phantom(tmp_path)
