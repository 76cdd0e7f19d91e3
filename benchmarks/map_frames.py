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

"""Measure how fast the map of all images follows the pointer, in a headless Chromium without a graphics card.

python -m benchmarks.map_frames
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException

from benchmarks.harness import ROOT, machine
from monai_weckd.annotation.explore import Explorer
from monai_weckd.annotation.order import Scores
from monai_weckd.annotation.queues import Queues
from monai_weckd.annotation.readers import Readers
from monai_weckd.annotation.store import LabelStore
from monai_weckd.apps.label.explore import make_explorer
from monai_weckd.apps.label.page import make_page
from monai_weckd.plan.label_kind import LabelKind

IMAGES, CLASSES, FRAMES, SIZE = 50_000, 8, 100, (1920, 1080)
# turns the wheel, or drags, once in each frame; returns milliseconds of drawing and between frames
SCRIPT = """const [kind, frames, done] = arguments;
const canvas = document.getElementById("points");
const { left, top, width, height } = canvas.getBoundingClientRect();
const send = (name, x, y, more) => (name === "mousemove" ? window : canvas).dispatchEvent(new (name === "wheel" ?
    WheelEvent : MouseEvent)(name, { bubbles: true, cancelable: true, view: window, clientX: left + x, clientY: top + y,
    ...more }));
const drawn = [], between = [];
let last = performance.now();
if (kind === "drag") send("mousedown", width / 2, height / 2, {});
function step(number) {
  const now = performance.now();
  if (number > 1) { between.push(now - last); drawn.push(Number(canvas.dataset.milliseconds)); }
  last = now;
  if (number > frames) { if (kind === "drag") send("mouseup", 0, 0, {}); done([drawn, between]); return; }
  if (kind === "drag") send("mousemove", width / 2 + 100 * Math.sin(number / 9), height / 2 + number, {});
  else send("wheel", width / 3, height / 2, { deltaY: number < frames / 2 ? -60 : 60 });
  requestAnimationFrame(() => step(number + 1));
}
step(0);"""


def make_session(folder: Path) -> SimpleNamespace:
    """Return what the map needs of a session, with random points."""
    random = np.random.default_rng(0)
    kind = LabelKind(tuple(f"class {number}" for number in range(CLASSES)))
    of = random.integers(0, CLASSES, IMAGES)
    points = (random.normal(size=(CLASSES, 64))[of] + random.normal(size=(IMAGES, 64))).astype(np.float32)
    chances = random.dirichlet(np.ones(CLASSES), IMAGES)
    ids = tuple(f"{place // 500:03}/{place:06}.png" for place in range(IMAGES))
    scores = Scores("", ids, points, np.zeros((IMAGES, 0), np.float32), np.zeros(IMAGES), {})
    store = LabelStore(folder / "labels.json", kind.names)
    store.put_all({ids[place]: kind.names[of[place]] for place in range(0, IMAGES, 250)}, info={})
    live = SimpleNamespace(ids=ids, probabilities=chances, held_out={}, kind=kind)

    def item(key: str) -> dict[str, str]:
        raise HTTPException(404)  # there are no files

    return SimpleNamespace(
        item=item,
        items={key: {"id": key} for key in ids},
        classes=kind.names,
        answers=(),
        store=store,
        readers=Readers(store, share=0.0, policy="settle", seed=0),
        queues=Queues(),
        chain=SimpleNamespace(
            bundle=SimpleNamespace(kind=kind), scores=scores, points=points, unreadable={}, live=live
        ),
    )


def main() -> None:
    """Print milliseconds: the server's answer, then drawing and frames while somebody zooms and drags."""
    sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "apps" / "label")]
    from label_browser import open_browser

    print(machine())
    app, listener = FastAPI(), socket.socket()
    listener.bind(("127.0.0.1", 0))
    with tempfile.TemporaryDirectory() as folder:
        session = make_session(Path(folder))
        begin = time.perf_counter()
        size = len(json.dumps(Explorer(session).map(None)))
        print(f"the map of {IMAGES} images as JSON: {1000 * (time.perf_counter() - begin):.0f} ms, {size / 1e6:.1f} MB")
    app.include_router(make_explorer(session))
    app.include_router(make_page())
    running = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True).start()
    driver = open_browser()
    try:
        driver.set_window_size(*SIZE)
        driver.get(f"http://127.0.0.1:{listener.getsockname()[1]}/explore")
        while not driver.find_elements("css selector", "#legend li"):
            time.sleep(0.1)
        driver.set_script_timeout(200)
        for kind in ("wheel", "drag"):
            parts = driver.execute_async_script(SCRIPT, kind, FRAMES)
            for what, times in zip(("drawing", "from frame to frame"), parts, strict=True):
                print(
                    f"{kind}: {what}: {np.median(times):.1f} ms, 95 % below {np.quantile(times, 0.95):.1f}", flush=True
                )
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
