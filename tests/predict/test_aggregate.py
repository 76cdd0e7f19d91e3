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

import numpy as np
import pytest

from monai_weckd.data.keys import ImageKeys
from monai_weckd.predict.aggregate import Aggregate
from monai_weckd.predict.images import Prediction
from monai_weckd.utils.tables import read_table

CLASSES = ("ill", "well")
# patient, study, series, probability of "ill"; None: a bad image
IMAGES = [
    ("p1", "s1", "a", 0.25),
    ("p2", "s3", "c", None),
    ("p1", "s1", "a", 0.75),
    ("p1", "s1", "b", 1.0),
    ("p1", "s2", "d", 0.0),
    ("p1", "s2", "d", None),
    ("", "", "", 0.5),
]


def aggregate(level, **options):
    found = Aggregate(level, CLASSES, **options)
    for number, (*names, value) in enumerate(IMAGES):
        row = None if value is None else np.array([value, 1 - value], np.float32)
        found.add(ImageKeys(f"{number}.png", *names), Prediction("", row, "" if value is not None else "broken"))
    return found


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("patient", [("p1", 5, 1, 0.5), ("p2", 1, 1, None)]),
        ("study", [("p1", "s1", 3, 0, 2 / 3), ("p2", "s3", 1, 1, None), ("p1", "s2", 2, 1, 0.0)]),
        (
            "series",
            [
                ("p1", "s1", "a", 2, 0, 0.5),
                ("p2", "s3", "c", 1, 1, None),
                ("p1", "s1", "b", 1, 0, 1.0),
                ("p1", "s2", "d", 2, 1, 0.0),
            ],
        ),
    ],
)
def test_a_row_has_the_mean_of_its_images(tmp_path, level, expected):
    found = aggregate(level)
    assert found.unknown == 1
    found.write(tmp_path / "out.csv")
    rows = read_table((tmp_path / "out.csv").read_text())
    assert len(rows) == len(expected)
    for row, (*names, images, bad, value) in zip(rows, expected, strict=True):
        assert [row[name] for name in ("patient", "study", "series")[: len(names)]] == names
        assert (int(row["images"]), int(row["bad"])) == (images, bad)
        if value is None:
            assert row["predicted"] == row["confidence"] == row["probability_ill"] == ""
            assert row["reason"] == "no image can be read"
        else:
            assert float(row["probability_ill"]) == pytest.approx(value)
            assert float(row["confidence"]) == pytest.approx(max(value, 1 - value))
            assert row["predicted"] == ("ill" if value >= 0.5 else "well")
            assert row["reason"] == ""


def test_thresholds_of_findings_are_applied_to_the_mean(tmp_path):
    found = Aggregate("patient", ("mass", "edema", "rib"), thresholds=[0.5, 0.2, None], min_confidence=0.55)
    for patient, *values in [("p1", 0.9, 0.0, 1.0), ("p1", 0.3, 0.6, 1.0), ("p2", 0.1, 0.1, 0.0), ("p3",)]:
        row = np.array(values, np.float32) if values else None
        found.add(ImageKeys("a.png", patient), Prediction("", row, "" if values else "broken"))
    found.write(tmp_path / "out.csv")
    first, second, bad = read_table((tmp_path / "out.csv").read_text())
    assert [float(first[f"probability_{name}"]) for name in ("mass", "edema")] == pytest.approx([0.6, 0.3])
    # a mean of 0.3 is above its threshold, but too improbable an answer
    assert (first["findings"], first["undecided"]) == ("mass", "edema|rib")
    assert (first["images"], first["threshold_edema"], first["threshold_rib"]) == ("2", "0.2", "")
    assert (second["findings"], second["undecided"]) == ("", "")
    assert (bad["findings"], bad["probability_mass"], bad["reason"]) == ("", "", "no image can be read")


def test_an_uncertain_mean_has_no_class():
    rows = {row["study"]: row for row in aggregate("study", min_confidence=0.7).rows()}
    assert (rows["s1"]["predicted"], rows["s1"]["reason"]) == ("", "below min_confidence")
    assert rows["s2"]["predicted"] == "well"
