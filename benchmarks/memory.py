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

"""P7: measure peak memory, and compare a run's final model with the plain network."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from statistics import median

import torch
from ignite.engine import Events

from benchmarks.harness import Result, child, interleave, ratio
from benchmarks.steps import big_network, distillation_step, make_batch, our_trainer, supervised_step
from monai_weckd.networks import freeze

__all__ = ["measure"]

COPIES = 6
ARMS = ("supervised", "hand", "ours", "cached")
# with these settings, glibc returns larger blocks as soon as they are freed: resident memory is then memory in use,
# without holes in the heap from the imports, which differ by twenty MiB between processes of any arm
HEAP = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}


def status(name: str) -> float:
    """Return a line of this process's status, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise ValueError(f"{name}: expected a line of /proc/self/status, got none. Run this on Linux.")


def teacher_pages() -> float:
    """Return how much of a paged-out teacher is resident, in MiB."""
    total, inside = 0.0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split()[0]:
            inside = "teacher.pt" in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) / 1024
    return total


def memory() -> dict[str, float]:
    """Return the peak of the resident memory, and how much of a paged-out teacher is resident, in MiB."""
    # without the pages of libraries, which come and go with the machine's page cache
    return {"peak": status("VmHWM") - status("RssFile"), "teacher": teacher_pages()}


def count_from_here() -> None:
    """Let the peak of the resident memory count from here."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def run_arm(arm: str, size: int, side: int) -> dict[str, float]:
    """Train for some steps and return the peak of the resident memory from the third epoch on, in MiB."""
    batch, steps, found = make_batch(size, side), 3, {}
    network = big_network()
    if arm in ("supervised", "hand"):
        step = supervised_step(network) if arm == "supervised" else distillation_step(network, freeze(big_network()))
        for _ in range(2 * steps):
            step(batch)
        count_from_here()
        for _ in range(steps):
            step(batch)
        found.update(memory())
    else:
        trainer = our_trainer(network, batch, steps, teacher=freeze(network), teacher_cache=arm == "cached")
        trainer.state.max_epochs = 3
        trainer.add_event_handler(Events.EPOCH_STARTED(once=3), count_from_here)
        # before the end of the run, when the trainer reads the teacher again to see that it has not changed
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=3), lambda: found.update(memory()))
        trainer.run()
    return found


def measure_latency(rounds: int) -> list[Result]:
    """Compare the final model of a run, loaded from its file, with the plain network and with its traced form."""
    plain, images = big_network().eval(), torch.randn(1, 3, 64, 64)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        trainer = our_trainer(big_network(), make_batch(4, 32), 2, teacher=freeze(plain))
        trainer.run()
        torch.save(trainer.network.state_dict(), path)
        weights = torch.load(path, weights_only=True)
        size, needed = path.stat().st_size, sum(tensor.nbytes for tensor in plain.state_dict().values())
    same = weights.keys() == plain.state_dict().keys()
    loaded = big_network().eval()
    loaded.load_state_dict(weights)
    with torch.inference_mode():
        traced = torch.jit.freeze(torch.jit.trace(loaded, images))
        difference = (traced(images) - loaded(images)).abs().max().item()
        # where its weights lie in memory makes one copy of a network 5 % faster than the next: an arm calls several
        copies = {name: [deepcopy(one) for _ in range(COPIES)] for name, one in (("plain", plain), ("loaded", loaded))}
        copies["traced"] = [torch.jit.freeze(torch.jit.trace(copy, images)) for copy in copies["loaded"]]
        arms = {name: lambda ones=ones: [one(images) for one in ones] for name, ones in copies.items()}
        times = interleave(arms, rounds=rounds, repeats=4, lead=1)
    return [
        Result("P7", "keys of the final file that are not the network's", 0.0 if same else 1.0, 0, unit=""),
        Result("P7", "bytes of the final file / bytes of the network's weights", size / needed, 1.01),
        Result("P7", "latency of the final model / plain network, one image", ratio(times, "loaded", "plain"), 1.02),
        Result("P7", "latency, exported / eager", ratio(times, "traced", "loaded"), 1.0),
        Result("P7", "exported: largest difference", difference, 1e-5, unit=""),
    ]


def measure(*, quick: bool = False) -> list[Result]:
    """Measure P7."""
    if sys.platform != "linux":
        raise OSError("memory: expected Linux, whose /proc tells the peak, got another system. Leave this part out.")
    rounds, size, side = (1, 2, 32) if quick else (7, 16, 64)
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for _ in range(rounds):
        for arm in ARMS:
            found[arm].append(child("memory", arm, size, side, **HEAP))
    base = median(run["peak"] for run in found["supervised"])
    extra = {arm: median(run["peak"] for run in found[arm]) - base for arm in ARMS[1:]}
    note = f"supervised {base:.0f} MiB, by hand {extra['hand']:+.0f}, ours {extra['ours']:+.0f}"
    return [
        Result(
            "P7",
            "extra peak memory of a distillation step, ours / by hand",
            extra["ours"] / extra["hand"],
            1.1,
            note=note,
        ),
        Result("P7", "extra peak memory with the teacher cache / by hand", extra["cached"] / extra["hand"], 0.1),
        Result(
            "P7",
            "teacher's weights in memory with the cache",
            median(run["teacher"] for run in found["cached"]),
            0,
            unit="MiB",
        ),
        *measure_latency(3 if quick else 11),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the peak memory of one arm in MiB, as JSON.")
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("size", type=int)
    parser.add_argument("side", type=int)
    args = parser.parse_args()
    print(json.dumps(run_arm(args.arm, args.size, args.side)))
