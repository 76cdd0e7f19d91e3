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

"""Measure how long the label server's store takes to keep one more label, by how many it has.

python -m benchmarks.label_store
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import machine
from monai_weckd.annotation import LabelStore

LABELS, PUTS, CLASSES = (100, 1000, 10_000, 100_000), 200, ("ill", "well")


def measure(folder: Path, count: int) -> list[float]:
    """Return the milliseconds of each further label, beside some that there are.

    Args:
        folder: where to keep them; the disk takes most of the time.
        count: how many there are.

    """
    path = folder / f"{count}.json"
    given = {f"class/image_{number:06d}.png": {"label": CLASSES[number % 2], "ts": 1} for number in range(count)}
    path.write_text(json.dumps({"format": 1, "labels": given}, indent=1), encoding="utf-8")
    store, times = LabelStore(path, CLASSES), []
    for number in range(PUTS):
        begin = time.perf_counter()
        store.put(f"class/new_{number}.png", "ill")
        times.append(1000 * (time.perf_counter() - begin))
    return times


def main() -> None:
    """Print median and most of two hundred labels in milliseconds."""
    print(machine())
    for count in LABELS:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            times = measure(Path(folder), count)
        print(f"{count:,} labels: {np.median(times):.1f} ms, at most {max(times):.1f}")


if __name__ == "__main__":
    main()
