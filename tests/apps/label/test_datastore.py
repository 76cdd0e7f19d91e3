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

import io
import json
import zipfile

import pytest
from label_server import LONG, needs_monai_label

pytestmark = needs_monai_label


def is_whole(server):
    """Tell whether all that the server gives out about its state can be read."""
    paths = ("/datastore/", "/datastore/?output=all", "/datastore/?output=train", "/info/", "/weckd/state", "/train/")
    answers = {path: server.ask("GET", path) for path in paths}
    assert {path: answer.status_code for path, answer in answers.items() if answer.status_code != 200} == {}
    for answer in answers.values():
        json.loads(answer.text, parse_constant=pytest.fail)


VALUES = {
    "nan": '{"note": NaN}',
    "infinity": '{"note": [-Infinity]}',
    "too large a number": '{"note": 1e999}',
    "half a pair": '{"note": "\\ud800"}',
    "a list": "[1]",
    "a number": "5",
    "a text": '"text"',
    "nothing": "null",
    "deep": '{"a":' * 500 + "1" + "}" * 500,
    "deeper": "[" * 100_000,
    "long": json.dumps({"note": "x" * 20_000}),
    "no json": "[1",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=list(VALUES))
def test_parameters_that_cannot_be_given_out_again_are_not_kept(server, image, value):
    label = {"label": ("l.json", b'{"idx": 0}')}
    body = {"Content-Type": "application/json"}
    for method, path, options in (
        ("PUT", f"/datastore/label?image={image}", {"files": {**label, "params": (None, value)}}),
        ("PUT", f"/datastore/label/info?label={image}&tag=final", {"data": {"info": value}}),
        ("PUT", f"/datastore/image/info?image={image}", {"data": {"info": value}}),
        ("POST", f"/infer/chain?image={image}", {"data": {"params": value}}),
        *((("POST", path, {"data": value, "headers": body})) for path in ("/scoring/chain", "/activelearning/chain")),
    ):
        answer = server.ask(method, path, **options)
        if answer.status_code == 200:  # what is not kept may be longer, or nothing at all
            assert path.startswith(("/activelearning", "/scoring"))
            assert value in ("null", VALUES["long"])
        else:
            assert answer.status_code in (400, 422), (path, answer.text)
            assert len(answer.json()["detail"]) < 300
            assert "\n" not in answer.json()["detail"]
    is_whole(server)
    assert server.ask("GET", f"/weckd/image/{image}").json()["label"] is None


@pytest.mark.parametrize("key", ["self", "image_id", "label", "ts", "info", "path", "note"])
def test_no_key_of_a_parameter_stands_for_something_else(server, image, key):
    files = {"label": ("l.json", b'{"idx": 3}'), "params": (None, json.dumps({key: "other"}))}
    assert server.ask("PUT", f"/datastore/label?image={image}", files=files).status_code == 200
    assert server.ask("GET", f"/weckd/image/{image}").json()["label"] == "normal"
    is_whole(server)
    assert server.ask("DELETE", f"/weckd/label/{image}").status_code == 200


@pytest.mark.parametrize("strategy", [1, "x", [], None, True])
def test_a_strategy_that_is_none_does_not_stop_the_next_one(server, image, strategy):
    info = {"data": {"info": json.dumps({"strategy": strategy})}}
    assert server.ask("PUT", f"/datastore/image/info?image={image}", **info).status_code == 400
    assert server.ask("POST", "/activelearning/chain").status_code == 200


def test_a_client_of_no_number_is_not_kept(server):
    bad = server.ask("POST", "/activelearning/chain", data='{"client_id": NaN}')
    assert bad.status_code in (400, 422)
    is_whole(server)


def test_a_prediction_is_kept_under_its_tag(server, image):
    params = {"label_tag": "second", "save_label": True}
    answer = server.ask("POST", f"/infer/chain?image={image}", data={"params": json.dumps(params)})
    assert answer.status_code == 200
    kept = server.ask("GET", f"/datastore/label?label={image}&tag=second").json()
    assert [one["label"] for one in kept["prediction"]] == server.state()["classes"]


@pytest.mark.parametrize("content", [b"<script>", b"{}", b'{"label": 5}', b"[" * 100_000, b'{"idx": NaN}', b"\x00"])
@pytest.mark.parametrize("tag", ["final", "original", "mine"])
def test_a_label_of_any_tag_is_a_class(server, image, content, tag):
    answer = server.ask("PUT", f"/datastore/label?image={image}&tag={tag}", files={"label": ("l.json", content)})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("label: expected")


@pytest.mark.parametrize(
    "path", ["/", "/page/page.js", "/info/", "/weckd/state", "/weckd/next", "/none", "/datastore/", "/datastore/image"]
)
def test_no_other_page_may_use_an_answer(server, path):
    for site, refused in (("same-origin", False), ("none", False), ("cross-site", True), ("same-site", True)):
        answer = server.ask("GET", path, headers={"Sec-Fetch-Site": site})
        assert (answer.status_code == 403) == refused
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        own = path in ("/", "/page/page.js") and not refused
        assert answer.headers["Content-Security-Policy"].startswith(f"default-src '{'self' if own else 'none'}'")


@pytest.mark.parametrize("name", LONG)
def test_an_image_of_a_long_name_is_like_any_other(server, name):
    key = f"normal/{name}"
    for tag in ("final", "original"):
        files = {"label": ("l.json", b'{"idx": 3}')}
        assert server.ask("PUT", "/datastore/label", params={"image": key, "tag": tag}, files=files).status_code == 200
        answer = server.ask("GET", "/datastore/label", params={"label": key, "tag": tag})
        assert answer.json()["idx"] == 3
        assert server.ask("DELETE", "/datastore/label", params={"id": key, "tag": tag}).status_code == 200
    params = {"params": json.dumps({"save_label": True})}
    assert server.ask("POST", "/infer/chain", params={"image": key}, data=params).status_code == 200
    assert server.ask("GET", f"/weckd/image/{key}/png").status_code == 200


@pytest.mark.parametrize("length", [65, 250, 256, 5000])
@pytest.mark.parametrize("letter", ["n", "ä", "/"])
def test_what_is_too_long_is_no_fault_of_the_server(server, image, length, letter):
    text = letter * length
    label = {"label": (f"a.{text}", b'{"idx": 3}')}
    answers = [
        server.ask("PUT", "/datastore/label", params={"image": image, "tag": text}, files=label),
        server.ask("GET", "/datastore/label", params={"label": image, "tag": text}),
        server.ask("DELETE", "/datastore/label", params={"id": image, "tag": text}),
        server.ask("PUT", "/datastore/label", params={"image": text}, files=label),
        server.ask("GET", f"/weckd/image/{text}"),
        server.ask("PUT", f"/weckd/label/{text}", json={"label": "normal"}),
        server.ask("PUT", f"/weckd/label/{image}", json={"label": text}),
        server.ask("POST", "/infer/chain", params={"image": text}),
        server.ask("POST", "/infer/chain", files={"file": (f"a.{text}", b"no image")}),
        server.ask("POST", f"/infer/{text}", params={"image": image}),
    ]
    assert [answer.status_code for answer in answers if answer.status_code not in (400, 404)] == []
    folder = str(server.log.parent)
    assert [answer.text for answer in answers if folder in answer.text] == []


def test_the_data_set_holds_files_of_any_time(server):
    keys = [f"normal/{name}" for name in LONG[:3]]
    for key in keys:
        assert server.ask("PUT", f"/weckd/label/{key}", json={"label": "normal"}).status_code == 200
    answer = server.ask("GET", "/datastore/dataset")
    for key in keys:
        assert server.ask("DELETE", f"/weckd/label/{key}").status_code == 200
    assert answer.status_code == 200
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert set(keys) < set(archive.namelist())
        assert {json.loads(archive.read("labels.json"))[key] for key in keys} == {"normal"}
        assert {archive.getinfo(key).date_time[0] for key in keys} == {1980, 2107}
    assert [path.name for path in server.log.with_suffix("").glob("dataset.zip*")] == ["dataset.zip"]
