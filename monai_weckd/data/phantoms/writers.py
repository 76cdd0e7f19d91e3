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

"""Write phantom images as PNG, NIfTI and DICOM files."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import DSfloat

from monai_weckd.data.phantoms.brain import Slice
from monai_weckd.data.phantoms.items import PhantomItem

__all__ = ["write_picture", "write_slice", "write_volume"]

# a fixed date, so that the same phantom has the same bytes on any day
_DATE, _TIME = "20000101", "120000"


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write a picture as PNG.

    Args:
        path: file to write.
        pixels: uint8 array of shape (H, W, 3), or (H, W) for gray.
    """
    Image.fromarray(pixels).save(path, format="PNG")


def write_volume(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume as NIfTI, compressed without a time stamp.

    Args:
        path: file to write, .nii.gz.
        voxels: int16 array.
        affine: from voxel indices to right, front and up in mm.
    """
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def write_slice(path: Path, scan: Slice, item: PhantomItem) -> None:
    """Write a slice as an MR image in DICOM, uncompressed.

    Args:
        path: file to write.
        scan: pixels and geometry.
        item: the patient it belongs to, and its place in the series.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # a constant, since the default names the installed version of pydicom
    dataset.file_meta.ImplementationClassUID = UID("2.25.129094440232178149199932976877280199031")
    dataset.file_meta.ImplementationVersionName = "MONAI_WECKD"
    _identify(dataset, item)
    _place(dataset, scan)
    _fill(dataset, scan.pixels)
    dataset.save_as(path, enforce_file_format=True)


def _identify(dataset: Dataset, item: PhantomItem) -> None:
    """Set patient, study and series, and state that nobody was scanned."""
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = item.uid(f"instance/{item.index}")
    dataset.StudyInstanceUID = item.uid("study")
    dataset.SeriesInstanceUID = item.uid("series")
    dataset.FrameOfReferenceUID = item.uid("frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.PatientName = f"Phantom^{item.group}"
    dataset.PatientID = item.group
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyDate, dataset.StudyTime = _DATE, _TIME
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.StudyID = ""
    dataset.Modality = "MR"
    dataset.Manufacturer = "monai_weckd"
    dataset.SeriesDescription = "synthetic phantom, not a patient"
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = item.index + 1
    dataset.ImageType = ["DERIVED", "PRIMARY", "OTHER"]


def _place(dataset: Dataset, scan: Slice) -> None:
    """Set the position of the slice, and the acquisition that it imitates."""
    dataset.ImagePositionPatient = _decimals(scan.position)
    dataset.ImageOrientationPatient = _decimals(scan.orientation)
    dataset.PixelSpacing = _decimals([scan.spacing, scan.spacing])
    dataset.SliceThickness, dataset.SpacingBetweenSlices = _decimals([scan.thickness, scan.thickness])
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "NONE", ""
    dataset.MRAcquisitionType = "2D"
    dataset.RepetitionTime, dataset.EchoTime, dataset.EchoTrainLength = 500, 10, 1


def _fill(dataset: Dataset, pixels: np.ndarray) -> None:
    """Put in the pixels and a window that shows them."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    top = float(np.quantile(pixels, 0.995).round())
    dataset.WindowCenter, dataset.WindowWidth = _decimals([top / 2, top])
    dataset.PixelData = pixels.astype("<u2").tobytes()


def _decimals(values: np.ndarray | list[float]) -> list[DSfloat]:
    """Return decimal strings of at most 16 characters, as DICOM allows."""
    return [DSfloat(float(value), auto_format=True) for value in values]
