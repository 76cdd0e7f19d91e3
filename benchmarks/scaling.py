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

"""P6: measure how time and memory grow with the number of items."""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections import deque
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.harness import Result, child, slope

__all__ = ["measure"]

PARTS = ("plan", "index", "cache", "sampler")
SIDE, REPEATED = 8, 30_000


def items(number: int) -> list[dict[str, Any]]:
    """Return a data list with two items per group and five classes."""
    return [
        {"image": f"/images/{n}.png", "label": n // 2 % 5, "group": f"g{n // 2}", "id": f"{n}.png"}
        for n in range(number)
    ]


def run_part(part: str, number: int) -> dict[str, float]:
    """Return the CPU seconds of one part and the peak of the memory that it allocates, in bytes.

    The first call does not count. Of many short calls, the median counts, since a thousand items take a millisecond.
    """
    work = prepare(part, number)
    seconds = []
    for _ in range(1 + max(1, REPEATED // number)):
        start = time.process_time()
        kept = work()
        seconds.append(time.process_time() - start)
        del kept
    tracemalloc.start()
    kept = work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del kept
    return {"seconds": median(seconds[1:]), "bytes": float(peak)}


def prepare(part: str, number: int) -> Any:
    """Import the modules of a part, and return the work to measure."""
    if part == "plan":
        from monai_weckd import plan_chain

        data = items(number)
        return lambda: plan_chain(data, classes=tuple("abcde"))
    if part == "index":
        data = items(number)
        # a plan must look at each item at least once: this measures the machine's cost of that
        return lambda: {item["id"]: item["group"] for item in data}
    if part == "sampler":
        from monai_weckd.data import StageBatchSampler

        labeled, pool = np.arange(number // 10), np.arange(number // 10, number)
        options = {"batch_size": 16, "pool_ratio": 1, "num_batches": number, "seed": 0, "stage": 1}
        # half an epoch over the pool; no batch is kept, as no loader keeps one
        return lambda: deque(islice(StageBatchSampler(labeled, pool, **options), number // 32), maxlen=0)
    from monai.transforms import Lambdad

    from monai_weckd.data import ByteCacheDataset

    image = _image()
    # nothing is decoded, so that only the cost of the cache is measured
    return lambda: ByteCacheDataset(items(number), Lambdad("image", lambda _: image), value_range=(0, 1))


def _image() -> Any:
    import torch

    return torch.zeros(1, SIDE, SIDE)


def measure_file(number: int) -> float:
    """Return the bytes per item in a mapped cache's file, beyond the image's own bytes."""
    from monai_weckd.data.row_store import RowStore

    with TemporaryDirectory() as folder:
        store = RowStore(folder, (1, SIDE, SIDE), np.dtype("uint8"))
        store.append([f"{n:040x}" for n in range(number)], np.zeros((number, 1, SIDE, SIDE), dtype=np.uint8))
        return sum(path.stat().st_size for path in Path(folder).iterdir()) / number - SIDE * SIDE


def measure(*, quick: bool = False) -> list[Result]:
    """Measure P6: how time and memory grow with the number of items."""
    sizes = (500, 5_000) if quick else (1_000, 3_000, 10_000, 30_000, 100_000)
    results = []
    for part in PARTS:
        rounds = 1 if quick else 3 if part == "cache" else 7
        found = {size: [child("scaling", part, size) for _ in range(rounds)] for size in sizes}
        seconds = [median(run["seconds"] for run in found[size]) for size in sizes]
        memory = [median(run["bytes"] for run in found[size]) for size in sizes]
        note = ", ".join(f"{size:,} items {value:.3g} s" for size, value in zip(sizes, seconds, strict=True))
        if part == "index":
            what = "a dictionary of the plan's items, for comparison: exponent of the time"
            results.append(Result("P6", what, slope(sizes, seconds), unit="", note=note))
            continue
        results.append(Result("P6", f"{part}: exponent of the time", slope(sizes, seconds), 1.05, unit="", note=note))
        results.append(Result("P6", f"{part}: exponent of the memory", slope(sizes, memory), 1.05, unit=""))
        results.append(Result("P6", f"{part}: memory of an item at the peak", memory[-1] / sizes[-1], unit="bytes"))
        if part == "plan":
            results.append(Result("P6", f"plan of {sizes[-1]:,} items beyond imports", seconds[-1], 2.0, unit="s"))
    results.append(
        Result("P6", "mapped cache: bytes of an item beyond its image", measure_file(sizes[0]), unit="bytes")
    )
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the seconds and the bytes that one part takes, as JSON.")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("number", type=int)
    args = parser.parse_args()
    print(json.dumps(run_part(args.part, args.number)))
