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

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from phantom_files import manifest

from monai_weckd.data.phantoms.brain import VOLUME_RADIUS
from monai_weckd.data.phantoms.head import Head, head_pose, head_signal
from monai_weckd.data.phantoms.items import phantom_items


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
