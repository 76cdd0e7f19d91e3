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

"""Time the command ``fetch`` against a loop of ``dicomweb-client``."""

from __future__ import annotations

import argparse
import io
import json
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
from dicomweb_client import DICOMwebClient, session_utils
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from benchmarks.harness import child
from benchmarks.memory import status
from monai_weckd.pacs.fetch import series_folder
from monai_weckd.pacs.server import DicomwebServer, Series

DESCRIPTION = """Time the command fetch against a loop of dicomweb-client's retrieve_instance, from one server, in fresh
processes that take turns, and print medians as JSON. Needs a DICOMweb server of your own for tests, such as Orthanc, in
which it leaves two series; user and password as for fetch. Part of no other run."""

ARMS = ("fetch", "loop", "loop that writes")


def picture(side: int, series: Series, rng: np.random.Generator) -> Dataset:
    """Return a gray picture of noise, which is incompressible."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = SecondaryCaptureImageStorage, generate_uid(), "OT"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = series
    ds.PatientID, ds.PatientName = "benchmark", "Benchmark"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", side, side
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = rng.integers(0, 2**16, (side, side), dtype=np.uint16).tobytes()
    ds["PixelData"].VR = "OW"
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    file.seek(0)
    return dcmread(file)


def fill(server: DicomwebServer, instances: int, side: int) -> Series:
    """Store a series and return its UIDs."""
    series, rng = Series(generate_uid(), generate_uid()), np.random.default_rng(0)
    for _ in range(instances):
        server.store(picture(side, series, rng))
    return series


def loop(server: DicomwebServer, series: Series, folder: Path | None) -> None:
    """Retrieve a series as the library's user would, and write it if a folder is given."""
    session = session_utils.create_session()
    session.auth = server._session.auth
    client = DICOMwebClient(server.url, session=session)
    for number, found in enumerate(client.search_for_instances(*series)):
        dataset = client.retrieve_instance(*series, found["00080018"]["Value"][0])
        if folder is not None:
            dataset.save_as(folder / f"{number}.dcm")


def run_arm(arm: str, server: DicomwebServer, series: Series) -> dict[str, float]:
    """Return the seconds of an arm, and its peak memory beyond the initial memory, in MiB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "out"
        list(server.series({"SeriesInstanceUID": series.uid}))  # what is loaded lazily is there
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
        before, start = status("VmRSS"), time.perf_counter()
        if arm == "fetch":
            with series_folder(server, folder) as target:
                target.fetch(series)
        else:
            folder.mkdir()
            loop(server, series, folder if arm == ARMS[2] else None)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "MiB": status("VmHWM") - before}


def main() -> None:
    """Fill the server, run the arms and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pacs", description=DESCRIPTION)
    parser.add_argument("--url", required=True, help="the server's DICOMweb service")
    parser.add_argument("--instances", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each arm; the median counts")
    parser.add_argument("--arm", nargs=3, metavar=("NAME", "STUDY", "SERIES"), help="run one alone")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    server = DicomwebServer(args.url)
    if args.arm:
        print(json.dumps(run_arm(args.arm[0], server, Series(*args.arm[1:]))))
        return
    results = {}
    for side in (64, 512):
        series = fill(server, args.instances, side)
        found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
        for number in range(args.rounds):
            for arm in ARMS[:: 1 if number % 2 else -1]:
                found[arm].append(child("pacs", "--url", args.url, "--arm", arm, *series))
        results[f"{args.instances} of {2 * side**2 / 1024:g} KiB"] = {
            arm: {key: round(float(np.median([run[key] for run in runs])), 2) for key in runs[0]}
            for arm, runs in found.items()
        }
    print(json.dumps(results, indent=4))


if __name__ == "__main__":
    main()
