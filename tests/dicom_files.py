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

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from monai_weckd.data.dicom.errors import DicomReadError
from monai_weckd.data.dicom.reader import DicomReader

__all__ = ["PATIENT", "dicom_dataset", "errors_of_dciodvfy", "read", "refused", "write_dicom", "write_series"]

PATIENT = {
    "PatientName": "Doe^Jane",
    "PatientID": "id-4711-secret",
    "PatientBirthDate": "19730423",
    "ReferringPhysicianName": "Who^Doctor",
}


def dicom_dataset(pixels: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> Dataset:
    """Return an image of ``(rows, columns[, 3])`` or ``(frames, rows, columns[, 3])``, with a patient in its header.

    RGB unless ``PhotometricInterpretation`` says otherwise, if the last axis has 3 entries; ``elements`` are set last.
    """
    is_color, order = pixels.shape[-1] == 3, "<" if syntax.is_little_endian else ">"
    frames = pixels if pixels.ndim == (4 if is_color else 3) else pixels[None]
    bits = 8 * pixels.dtype.itemsize
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    values = {
        **PATIENT,
        "SOPClassUID": SecondaryCaptureImageStorage,
        "SOPInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "StudyDate": "20200131",
        "Modality": "OT",
        "SamplesPerPixel": 3 if is_color else 1,
        "PhotometricInterpretation": "RGB" if is_color else "MONOCHROME2",
        "Rows": frames.shape[1],
        "Columns": frames.shape[2],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        **({"PlanarConfiguration": 0} if is_color else {}),
        **({"NumberOfFrames": len(frames)} if len(frames) > 1 else {}),
        **elements,
    }
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    if is_color and ds.PlanarConfiguration == 1:
        frames = np.moveaxis(frames, -1, 1)
    if "PixelData" not in elements:
        data = frames.astype(frames.dtype.newbyteorder(order)).tobytes()
        ds.PixelData = data + b"\0" * (len(data) % 2)
        ds["PixelData"].VR = "OW" if bits > 8 else "OB"
    return ds


def write_dicom(path: Path, pixels: np.ndarray, **elements: Any) -> str:
    """Write :py:func:`dicom_dataset` and return the path as text."""
    dicom_dataset(pixels, **elements).save_as(path, enforce_file_format=True)
    return str(path)


def write_series(folder: Path, volume: np.ndarray, affine: np.ndarray, **elements: Any) -> list[str]:
    """Write ``(X, Y, Z)`` with its RAS affine as one CT series; neither names nor InstanceNumber are in order."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :2], axis=0)
    uid, files = generate_uid(), []
    shuffled = np.random.default_rng(0).permutation(volume.shape[2])
    for k, name in enumerate(shuffled):
        own = {
            "SOPClassUID": CTImageStorage,
            "SeriesInstanceUID": uid,
            "InstanceNumber": int(name) + 1,
            "ImagePositionPatient": [f"{value:.8g}" for value in lps[:3, 3] + k * lps[:3, 2]],
            "ImageOrientationPatient": [f"{value:.8g}" for value in (lps[:3, :2] / spacing).T.ravel()],
            "PixelSpacing": [f"{value:.8g}" for value in spacing[::-1]],
        }
        files.append(write_dicom(folder / f"{name:03d}.dcm", volume[:, :, k].T, **{**own, **elements}))
    return files


def read(path: Any, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Return what ``DicomReader(**options)`` reads."""
    reader = DicomReader(**options)
    return reader.get_data(reader.read(path))


def refused(path: Any, **options: Any) -> str:
    """Return the message with which ``DicomReader(**options)`` refuses a path."""
    with pytest.raises(DicomReadError) as caught:
        read(path, **options)
    assert str(caught.value).isprintable()  # so it is one line
    return str(caught.value)


def errors_of_dciodvfy(path: Path) -> list[str]:
    """Return the errors that an independent validator finds."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (Debian's dicom3tools)")
    done = subprocess.run([program, str(path)], capture_output=True, text=True, errors="replace")
    lines = (done.stdout + done.stderr).splitlines()
    assert "ComprehensiveSR" in lines
    return [line for line in lines if line.startswith("Error")]
