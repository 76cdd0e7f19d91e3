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

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from label_server import SCRATCH, LabelServer, needs_monai_label

from monai_weckd.data.phantoms import make_phantom

pytestmark = [needs_monai_label, pytest.mark.slow]

logger = logging.getLogger(__name__)

CLIENTS, REQUESTS = 8, 1000


def test_a_thousand_requests_from_eight_clients(tmp_path):
    make_phantom("otoscopy", tmp_path / "images", items=60, seed=0)
    # the small network, so that the server is what takes the time
    with LabelServer(tmp_path / "images", tmp_path / "output", settings=SCRATCH) as server:
        names = list(server.ask("GET", "/datastore/?output=all").json()["objects"])
        truth = {name: name.split("/")[0] for name in names}
        for name in names[::2]:
            assert server.ask("PUT", f"/weckd/label/{name}", json={"label": truth[name]}).status_code == 200
        assert server.ask("POST", "/weckd/train").status_code == 202
        assert server.wait_for_stage()["training"]["error"] is None
        expected = {name: server.ask("GET", f"/weckd/predict/{name}").json() for name in names}

        def work(client):
            """Predict, ask, label and look in turns; each client labels images of its own, the same way again."""
            speaker, wrong = requests.Session(), []
            own = names[client::CLIENTS]
            for number in range(REQUESTS // CLIENTS):
                name = own[number % len(own)]
                kind = number % 5
                if kind == 0:
                    answer = server.ask("GET", f"/weckd/predict/{name}", session=speaker)
                    right = answer.json() == expected[name]
                elif kind == 1:
                    answer = server.ask("POST", f"/infer/chain?image={name}&output=json", session=speaker)
                    right = answer.json() == expected[name]
                elif kind == 2:
                    answer = server.ask("PUT", f"/weckd/label/{name}", session=speaker, json={"label": truth[name]})
                    right = answer.json()["label"] == truth[name]
                elif kind == 3:
                    answer = server.ask("GET", "/weckd/next", session=speaker)
                    right = answer.status_code == 404 or answer.json()["id"] in truth
                else:
                    answer = server.ask("GET", f"/weckd/image/{name}/png", session=speaker)
                    right = answer.content.startswith(b"\x89PNG")
                if not right or answer.status_code not in (200, 404):
                    wrong.append((name, answer.status_code, answer.text[:200]))
            return wrong

        memory = []
        for _ in range(3):
            began = time.perf_counter()
            with ThreadPoolExecutor(CLIENTS) as pool:
                assert [line for wrong in pool.map(work, range(CLIENTS)) for line in wrong] == []
            memory.append(server.memory_mb())
            rate = REQUESTS / (time.perf_counter() - began)
            logger.info("%d requests: %.0f in a second, %.0f MiB", REQUESTS, rate, memory[-1])
        # the first thousand fills caches and the allocator's arenas
        assert memory[2] < memory[0] * 1.05
        labels = server.state()["labels"]
        assert labels == {name: sum(label == name for label in map(truth.get, names)) for name in labels}
