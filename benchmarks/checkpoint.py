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

"""P10: measure what a checkpoint after each epoch costs, and what resuming from one costs."""

from __future__ import annotations

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from benchmarks.harness import ROOT, Result
from monai_weckd.data.phantoms import make_phantom
from monai_weckd.handlers import ChainCheckpoint

__all__ = ["TimedCheckpoint", "measure"]

BUNDLE = ROOT / "bundles" / "otoscopy_chain_classification"
# where the bundle lists its checkpoint
PLACE = "train#checkpoint"


class InterruptionError(Exception):
    """Ends the first of the two runs."""


class TimedCheckpoint(ChainCheckpoint):
    """A checkpoint that records when each epoch ends, and how long resuming takes."""

    # the epoch at whose start the run is interrupted
    stop: int | None = None
    going_on: float

    def attach(self, engine: Any) -> None:
        self.marks: list[float] = []
        engine.add_event_handler(Events.EPOCH_STARTED, self._interrupt)
        # runs just before the checkpoint of this epoch, if any, whose time then counts for the next epoch
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: self.marks.append(time.perf_counter()))
        super().attach(engine)

    def _interrupt(self, engine: Any) -> None:
        if engine.state.epoch == self.stop:
            raise InterruptionError

    def _begin(self, engine: Any) -> None:
        self.began = time.perf_counter()
        super()._begin(engine)

    def _put_back(self, engine: Any) -> None:
        super()._put_back(engine)
        self.going_on = time.perf_counter() - self.began


def train(folder: Path, *, stop: int | None = None, **settings: Any) -> tuple[TimedCheckpoint, list[float]]:
    """Train the otoscopy bundle with its defaults; return the checkpoint and the seconds between ends of epochs.

    Args:
        folder: folder with the images in ``data``.
        stop: epoch at whose start the run is interrupted, default None.
        settings: changes to the configuration.

    """
    workflow = ConfigWorkflow(
        [str(BUNDLE / "configs" / f"{name}.json") for name in ("train", "scratch")],
        workflow_type="train",
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(folder / "data"),
        output_dir=str(folder / "output"),
        **{f"{PLACE}#_target_": "benchmarks.checkpoint.TimedCheckpoint", **settings},
    )
    workflow.initialize()
    TimedCheckpoint.stop = stop
    try:
        workflow.run()
    except InterruptionError:
        pass
    except RuntimeError as error:  # as monai.bundle raises it
        if not isinstance(error.__cause__, InterruptionError):
            raise
    checkpoint = workflow.parser.get_parsed_content(PLACE)
    return checkpoint, [end - start for start, end in pairwise(checkpoint.marks)]


def measure(*, quick: bool = False) -> list[Result]:
    """Measure P10: the costs of a checkpoint after each epoch, and of resuming from one."""
    # every second epoch ends with a checkpoint: the ones between are what it is held against. Twice as many epochs as
    # by default make more pairs to compare
    settings: dict[str, Any] = {
        "max_epochs": 72,
        f"{PLACE}#interval": 2,
        "train#monitors#2#seconds": 0.1,
        "train#recorder#target_layer": None,
    }
    if quick:
        settings |= {"max_epochs": 6, "iterations_per_epoch": 1, "batch_size": 4}
        settings |= {"missing_classes": "allow"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_phantom("otoscopy", folder / "data", items=60 if quick else 240, seed=0)
        stop = settings["max_epochs"] - 1
        _, periods = train(folder, stop=stop, **settings)
        size = (folder / "output" / "checkpoint.pt").stat().st_size
        again, _ = train(folder, stop=stop + 1, resume=True, **settings)
    # periods[0] begins at the end of the first epoch, which has none
    share = median(kept / plain for plain, kept in zip(periods[::2], periods[1::2], strict=False)) - 1
    return [
        Result(
            "P10",
            "checkpoint at an epoch's end / epoch without one, default run of the otoscopy bundle",
            share,
            0.03,
            note=f"wall time, median of {len(periods) // 2} pairs, {size / 2**20:.1f} MiB",
        ),
        Result("P10", "going on from a checkpoint, from its reading to the next epoch", again.going_on, 1.0, unit="s"),
    ]
