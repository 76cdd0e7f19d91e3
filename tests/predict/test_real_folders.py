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

from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_dicom, write_series
from PIL import Image
from prediction_models import BRAIN_3D, OTOSCOPY, untrained_model

from monai_weckd.annotation import find_items
from monai_weckd.cli.main import main
from monai_weckd.utils.tables import read_table

PIXELS = np.arange(600, dtype=np.uint8).reshape(20, 30)


def write_variety(folder):
    """Write two volumes of several frames, a series and a scout beside each other, and what is none of these."""
    folder.mkdir()
    for name in ("one", "two.dcm"):
        write_dicom(folder / name, np.stack([PIXELS] * 5))
    write_series(folder / "s", np.zeros((9, 8, 7), np.uint16) + np.arange(7, dtype=np.uint16), np.eye(4))
    for path in (folder / "s").iterdir():
        path.rename(folder / path.name)
    (folder / "s").rmdir()
    write_dicom(folder / "scout.dcm", PIXELS)
    Image.fromarray(PIXELS).save(folder / "picture.png")
    (folder / "cut.dcm").write_bytes((folder / "scout.dcm").read_bytes()[:100])
    (folder / "dangling").symlink_to(folder / "absent")
    (folder / "notes.txt").write_text("no image")
    slices = write_series(folder / "gap", np.zeros((9, 8, 4), np.uint16), np.eye(4))
    Path(slices[1]).unlink()
    write_dicom(folder / "gap" / "other.dcm", PIXELS)


@pytest.mark.parametrize(("bundle", "dims", "read"), [(OTOSCOPY, 2, 13), (BRAIN_3D, 3, 3)])
def test_every_image_of_a_folder_is_right_or_has_a_reason_in_plain_words(capsys, tmp_path, bundle, dims, read):
    write_variety(tmp_path / "in")
    model = untrained_model(tmp_path / "output", bundle)
    command = [
        "predict",
        "--bundle",
        bundle,
        "--ckpt",
        model,
        "--input",
        tmp_path / "in",
        "--output",
        tmp_path / "o.csv",
    ]
    assert main(list(map(str, command))) == 0
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    rows = {row["file"]: row for row in read_table((tmp_path / "o.csv").read_text())}
    reasons = {name: row["reason"] for name, row in rows.items() if not row["predicted"]}
    assert len(rows) - len(reasons) == read
    assert {"cut.dcm", "dangling"} < reasons.keys()
    for name, reason in reasons.items():
        assert reason.startswith(f"{name}: expected ")
        assert not any(word in reason for word in ("Error", "spatial_size", "Sequence", "Exception"))
    if dims == 3:
        (gap,) = (reason for name, reason in reasons.items() if name.startswith("gap::"))
        assert "expected the slices of one volume, got others. gap/" in gap
        assert gap.endswith(": 1 slice(s) missing between them. Complete the series.")
    dimensions = [name for name, reason in reasons.items() if f"expected an image of {dims} dimensions, got" in reason]
    assert sorted(dimensions) == (["one", "two.dcm"] if dims == 2 else ["gap/other.dcm", "picture.png", "scout.dcm"])
    # `label` has the same images in the same groups
    items = {item["id"]: item["group"] for item in find_items(tmp_path / "in", spatial_dims=dims)}
    assert items == {name: row["patient"] or name for name, row in rows.items()}
