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
from label_browser import ForkedServer, Page, needs_browser
from label_server import SMALL, needs_monai_label

pytestmark = [needs_browser, needs_monai_label]

CLASSES = ["chronic_otitis_media", "earwax_plug", "myringosclerosis", "normal"]


@pytest.fixture(scope="module")
def ears(copy_ears, tmp_path_factory):
    return copy_ears(tmp_path_factory.mktemp("ears") / "images", 60)


@pytest.fixture
def server(forks, ears, tmp_path):
    with ForkedServer(forks, ears, tmp_path / "output", settings=SMALL) as server:
        yield server


def class_of(key):
    return key.split("/")[0]


def log_of(server):
    text = (server.log.with_suffix("") / "labels.log").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_batch_is_confirmed_but_for_what_was_taken_out(server, browser):
    page = Page(browser, server.url)
    page.key("g")
    page.wait(lambda: page.status.startswith("No batch yet"))
    keys = sorted(server.ask("GET", "/datastore/?output=all").json()["objects"])
    for key in keys[::3]:
        assert server.ask("PUT", f"/weckd/label/{key}", json={"label": class_of(key)}).status_code == 200
    page.wait(lambda: server.ask("GET", "/weckd/batch").status_code == 200)
    page.key("g")
    page.wait(lambda: page.find("batch").is_displayed())
    cells = page.run("return [...document.querySelectorAll('#batch .cell')].map((cell) => cell.value)")
    label = server.ask("GET", "/weckd/batch").json()["label"]
    assert len(cells) > 2
    assert set(cells).isdisjoint(keys[::3])
    assert f"These {len(cells)} look alike." in page.text("batch-title")

    # a key and a click take one out each; the key puts it back
    page.key("1")
    page.key("1")
    page.run("document.querySelectorAll('#batch .cell')[1].click()")
    pressed = "return [...document.querySelectorAll('#batch .cell')].map((cell) => cell.getAttribute('aria-pressed'))"
    assert page.run(pressed) == ["false", "true"] + ["false"] * (len(cells) - 2)
    page.run("document.getElementById('batch-title').focus()")
    page.key("\ue007")
    page.wait(lambda: page.find("viewer").is_displayed() and page.is_ready)
    assert page.name == cells[1]  # it is shown next
    given = [line for line in log_of(server) if "batch" in line.get("info", {})]
    confirmed = [cells[0], *cells[2:]]
    assert sorted(line["id"] for line in given) == sorted(confirmed)
    assert {(line["what"], line["label"], line["who"], line["info"]["batch"]) for line in given} == {
        ("label", label, "Ada", len(confirmed))
    }
    assert f"Saved: {len(confirmed)} images are {label}, confirmed together." in page.status

    # undo takes back the whole batch
    page.key("u")
    page.wait(lambda: page.status.startswith(f"Taken back: {len(confirmed)} images of a batch"))
    page.wait(lambda: page.is_ready)
    assert server.state()["images"]["labeled"] == len(keys[::3])

    # and Escape leaves a batch as it was
    page.wait(lambda: server.ask("GET", "/weckd/batch").status_code == 200)
    page.key("g")
    page.wait(lambda: page.find("batch").is_displayed())
    page.key("\ue00c")
    page.wait(lambda: page.find("viewer").is_displayed())
    assert server.state()["images"]["labeled"] == len(keys[::3])

    # beside an image stand the labeled ones that are most like it
    page.wait(lambda: page.find("similar").is_displayed())
    shown = page.run("return [...document.querySelectorAll('#similar-images img')].map((image) => image.alt)")
    found = server.ask("GET", f"/weckd/similar/{page.name}").json()
    assert shown == [one["id"] for one in found]
    assert len(found) == 3
    assert all(one["label"] == class_of(one["id"]) for one in found)
    assert page.console() == []


def test_labels_of_a_manifest_are_shown_and_then_taken(server, browser, tmp_path):
    keys = sorted(server.ask("GET", "/datastore/?output=all").json()["objects"])
    assert server.ask("PUT", f"/weckd/label/{keys[0]}", json={"label": "normal"}).status_code == 200
    other = next(name for name in CLASSES if name != "normal")
    manifest = tmp_path / "mine.csv"
    rows = [f"{keys[0]},{other}", f"{keys[1]},normal", f"{keys[2]},normal", "gone.png,normal"]
    page = Page(browser, server.url)
    page.run("document.querySelector('#manifest').closest('details').open = true")

    def send(*lines):
        manifest.write_text("\n".join(["file,label", *lines]) + "\n")
        page.run("document.getElementById('manifest').value = ''")
        page.find("manifest").send_keys(str(manifest))

    send(f"{keys[1]},norml")
    page.wait(lambda: page.error)
    assert page.error.startswith("No labels. mine.csv, row 2: expected one of the 4 classes, got 'norml'.")
    send(*rows)
    page.wait(lambda: page.find("manifest-preview").is_displayed())
    told = page.text("manifest-preview").replace("\u2068", "").replace("\u2069", "")
    differs = f"{keys[0]}: normal, not {other}"
    for text in ("2 images get a label. normal: 2.", "Of 1 image: another label, which stays", differs):
        assert text in told, told
    assert "Of 1 image: not in the folder, passed over" in told
    assert str(tmp_path) not in told
    assert server.state()["images"]["labeled"] == 1
    page.find("manifest-take").click()
    page.wait(lambda: page.status == "Saved: 2 labels of mine.csv.")
    page.wait(lambda: page.text("labeled-text") == "3 of 60 images labeled")
    taken = [line for line in log_of(server) if line.get("info")]
    assert [(line["id"], line["label"], line["who"], line["info"]) for line in taken] == [
        (key, "normal", "Ada", {"source": "mine.csv"}) for key in keys[1:3]
    ]
    assert page.console() == []
