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

import subprocess

from label_server import PYTHON, ROOT, needs_monai_label

pytestmark = needs_monai_label


def test_nobody_reserves_a_stage_for_somebody_else(server):
    answer = server.ask("POST", "/train/chain?run_sync=true", json={"reserved": True})
    assert answer.status_code == 400  # as without it: no label is new
    assert answer.json()["detail"].startswith("labels: expected")


def test_only_the_server_itself_says_that_a_stage_is_reserved():
    code = """
from types import SimpleNamespace
from monai_weckd.apps.label.compat import CheckedRequest
from monai_weckd.apps.label.tasks import ChainTrain
train = ChainTrain(SimpleNamespace(train=lambda reserved: reserved))
print(train({"reserved": True}, None), train(CheckedRequest(), None))
"""
    done = subprocess.run([str(PYTHON), "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_a_batch_keeps_a_prediction_of_each_image_and_hands_out_no_file(server):
    objects = server.ask("GET", "/datastore/?output=all").json()["objects"]
    labeled = [key for key, found in objects.items() if found["labels"]]
    assert 0 < len(labeled) < len(objects)
    answers = server.ask("POST", "/batch/infer/chain?run_sync=true&images=labeled", json={"label_tag": "batch"}).json()
    assert list(answers) == labeled
    assert {key for answer in answers.values() for key in answer} == {"label", "tag", "params"}
    for key in labeled[:2]:
        kept = server.ask("GET", f"/datastore/label?label={key}&tag=batch").json()
        assert kept == answers[key]["params"]


def test_scoring_tells_what_cannot_be_read(server):
    assert not server.ask("POST", "/scoring/chain?run_sync=true", json={}).json()["unreadable"]
