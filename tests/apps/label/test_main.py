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

import json

import pytest
from label_server import needs_monai_label

pytestmark = needs_monai_label


@pytest.mark.parametrize("tag", ["final", 5, 1.5, ["original"], None, True, "..", "a/b", "", "x" * 250, {"a": 1}])
def test_no_prediction_becomes_a_label(server, image, tag):
    before = server.state()["labels"]
    params = {"label_tag": tag, "save_label": True}
    one = server.ask("POST", f"/infer/chain?image={image}", data={"params": json.dumps(params)})
    many = server.ask("POST", "/batch/infer/chain?run_sync=true&images=unlabeled", json=params)
    assert one.status_code == 400
    assert one.json()["detail"].startswith("label_tag: expected a word for predictions such as 'original', got")
    assert many.status_code == 200
    assert {answer["error"] for answer in many.json().values()} == {one.json()["detail"]}
    assert server.ask("POST", "/batch/infer/chain?images=unlabeled", json=params).status_code == 400
    assert server.state()["labels"] == before


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("PUT", "/datastore/label?image=none.png", "label"),
        ("PUT", "/datastore/label?image=none.png&tag=original", "label"),
        ("PUT", "/datastore/label?image={image}&tag=..", "label"),
        ("PUT", "/datastore/label?image={image}", "label"),
        ("PUT", "/datastore/image?image=none", "file"),
        ("PUT", "/datastore/", "file"),
        ("POST", "/infer/chain", "file"),
        ("POST", "/infer/other", "file"),
        ("POST", "/infer/chain?image={image}&session_id=1", "file"),
        ("POST", "/infer/chain?image=none.png", "label"),
        ("POST", "/infer/chain?output=dicom_seg&image={image}", "label"),
    ],
)
@pytest.mark.parametrize("params", ["{}", '{"note": NaN}', '{"label_tag": "final"}'])
def test_a_refused_upload_goes_at_once(server, image, method, path, name, params):
    files = {name: ("a.json", bytes(10**6)), "params": (None, params)}
    answer = server.ask(method, path.format(image=image), files=files)
    assert answer.status_code in (400, 404), answer.text
    assert list((server.log.with_suffix("") / ".uploads").iterdir()) == []
