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

"""Measure how long the label server takes for an answer, a new head, and the next image, with 50,000 images.

python -m benchmarks.live_head

The embeddings are random, of four classes that overlap; the files of the images are empty, since only their names are
read. Requests go through HTTP on this machine, as the page sends them: a label, at once the next images,
the state and what stands beside an image, and the next images again half a second after the new order is there.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI

from benchmarks.harness import ROOT, machine
from monai_weckd.annotation import AnnotatedBundle, AnnotatedChain, AnnotationSession
from monai_weckd.annotation.order import Scores
from monai_weckd.apps.label import server
from monai_weckd.apps.label.routes import make_router

IMAGES, LABELS, ROUNDS = 50_000, (200,), 7
BUNDLE = ROOT / "bundles" / "otoscopy_chain_classification"
FEATURES = 3504  # as the bundle's network gives them
APART = 0.08  # distance of the classes in each feature, in standard deviations
A_FOLDER, A_GROUP = 500, 5


def write_files(folder: Path, groups: np.ndarray) -> list[str]:
    """Write empty images and their manifest, and return their ids."""
    ids = [f"{place // A_FOLDER:03}/{place:06}.png" for place in range(len(groups))]
    for number in range(-(-len(ids) // A_FOLDER)):
        (folder / f"{number:03}").mkdir(parents=True)
    for key in ids:
        (folder / key).touch()
    rows = [f"{key},,{group}" for key, group in zip(ids, groups, strict=True)]
    (folder / "manifest.csv").write_text("\n".join(["file,label,group", *rows]), encoding="utf-8")
    return ids


@contextmanager
def served(session: AnnotationSession) -> Iterator[http.client.HTTPConnection]:
    """Serve the routes of a session from a thread, and yield a connection to them."""
    app = FastAPI()
    app.include_router(make_router(session))
    # asyncio turns off the delay of small packets for sockets that say that they are TCP, as those of the server do
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_keep_alive=100))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    connection = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1])
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as browsers do; else 40 ms are lost
    yield connection
    running.should_exit = True
    thread.join()


def wait(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError("nothing was learned within a minute")
        time.sleep(0.002)


class Window:
    """A window of the page.

    Args:
        session: the session behind it.
        connection: the connection to its server.
        truth: class of each image.

    """

    def __init__(self, session: AnnotationSession, connection: http.client.HTTPConnection, truth: dict[str, str]):
        self.session, self.connection, self.truth = session, connection, truth
        self.times: dict[str, list[float]] = {}

    def ask(self, what: str, method: str, path: str, body: Any = None) -> Any:
        """Return an answer, and note the milliseconds until it was there."""
        begin = time.perf_counter()
        sent = None if body is None else json.dumps(body)
        self.connection.request(method, f"/weckd/{path}", body=sent, headers={"Content-Type": "application/json"})
        answer = json.loads(self.connection.getresponse().read())
        self.note(what, begin)
        return answer

    def note(self, what: str, begin: float) -> None:
        """Note the milliseconds since a time."""
        self.times.setdefault(what, []).append(1000 * (time.perf_counter() - begin))

    def next(self, what: str) -> str:
        """Return the id of the next image."""
        return str(self.ask(what, "POST", "next", {"window": "a", "count": 2})["id"])

    def round(self, key: str) -> str:
        """Label an image, wait until all has been learned from it, and return the next image."""
        count, chain = len(self.session.labels) + 1, self.session.chain
        begin = time.perf_counter()
        self.ask("answer to the label", "PUT", f"label/{key}", {"label": self.truth[key]})
        self.next("next image, at once")
        self.ask("state", "GET", "state?window=a")
        self.ask("labeled images that are most like it", "GET", f"similar/{key}")
        self.ask("other images of its group", "GET", f"related/{key}")
        wait(lambda: chain.live is not None and chain.live.summary["labels"] >= count)
        self.note("new model, after the label", begin)
        wait(lambda: chain.live_figures["estimate"] is not None)
        self.note("new order and estimate, after the label", begin)
        time.sleep(0.5)
        return self.next("next image, later")


def measure(session: AnnotationSession, truth: dict[str, str], labels: int) -> dict[str, list[float]]:
    """Return the milliseconds of each request and each thing that is learned, of rounds around a number of labels."""
    todo = [key for key in truth if key not in session.labels][: labels - ROUNDS // 2 - len(session.labels)]
    session.store.put_all({key: truth[key] for key in todo}, info={})
    with served(session) as connection:
        window = Window(session, connection, truth)
        key = window.next("first")
        window.round(key)  # the first one makes what later ones keep
        window.times.clear()
        key = window.next("first")
        for _ in range(ROUNDS):
            key = window.round(key)
    return window.times


def main() -> None:
    """Print milliseconds for each number of labels: median, least and most of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES, help="how many (default: %(default)s)")
    count = parser.parse_args().images
    server.set_switching()
    random = np.random.default_rng(0)
    rows = random.standard_normal((count, FEATURES), dtype=np.float32)
    print(f"{machine()}, {count} images of {FEATURES} features, {torch.get_num_threads()} threads", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder, "images")
        ids = write_files(studies, np.arange(count) // A_GROUP)
        bundle = AnnotatedBundle(BUNDLE, studies, cache_dir=Path(folder, "cache"))
        classes = random.integers(0, len(bundle.classes), count)
        rows += APART * random.standard_normal((len(bundle.classes), FEATURES), dtype=np.float32)[classes]
        chain = AnnotatedChain(bundle, Path(folder, "output"))
        begin = time.perf_counter()
        session = AnnotationSession(chain, studies)
        print(f"listing the images: {time.perf_counter() - begin:.1f} s", flush=True)
        nothing = np.zeros((count, 0), np.float32)
        chain._scores = Scores("", tuple(session.items), rows, nothing, np.zeros(count), {})
        truth = {ids[place]: bundle.classes[classes[place]] for place in random.permutation(count)}
        for labels in LABELS:
            for what, times in measure(session, truth, labels).items():
                text = f"{np.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f})"
                print(f"{labels} labels: {what}: {text}", flush=True)
    print(f"load: {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    main()
