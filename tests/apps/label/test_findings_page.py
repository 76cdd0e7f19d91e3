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
from label_server import ROOT, SMALL, needs_monai_label

from monai_weckd.annotation.label_files import rebuild_labels
from monai_weckd.data.phantoms import make_phantom
from monai_weckd.data.phantoms.chest import CHEST_FINDINGS

pytestmark = [needs_browser, needs_monai_label]

CHEST = ROOT / "bundles" / "chest_xray_chain_classification"
FIRST, SECOND, *REST = CHEST_FINDINGS


@pytest.fixture(scope="module")
def server(forks, tmp_path_factory):
    images = make_phantom("chest_xray", tmp_path_factory.mktemp("chest") / "images", items=24)
    output_dir = tmp_path_factory.mktemp("findings") / "output"
    options = ["--classes", *CHEST_FINDINGS]
    with ForkedServer(forks, images, output_dir, settings=SMALL, options=options, bundle=CHEST) as server:
        yield server


def said(page):
    """Return what is said of each finding, and how it is told to a screen reader."""
    return page.run("""return Object.fromEntries([...document.querySelectorAll(".class")].map((button) => [button.value,
        [button.querySelector(".said").textContent, button.getAttribute("aria-pressed")]]))""")


def confirm(page, key="\ue007"):
    """Confirm what is said, and wait for the next image; returns the id of this one."""
    before = page.name
    page.key(key)
    page.wait(lambda: page.name != before and (page.is_ready or page.name == "No image left"))
    return before


def stored(server):
    """Return the labels on the disk."""
    path = server.log.with_suffix("") / "labels.json"
    return {key: entry["label"] for key, entry in json.loads(path.read_text())["labels"].items()}


def test_somebody_reads_findings_by_keys(server, browser):
    page = Page(browser, server.url)
    assert page.text("label-title") == "Findings"
    assert not page.find("look-alikes").is_displayed()
    assert said(page) == {name: ["unknown", "mixed"] for name in CHEST_FINDINGS}

    # nothing is said yet: nothing is saved
    shown = page.name
    page.key("\ue007")
    page.wait(lambda: page.status.startswith("Nothing is said yet"))
    assert (page.name, stored(server)) == (shown, {})

    # a key goes from yes to no to unknown, and each step is announced
    for word, pressed in (("yes", "true"), ("no", "false"), ("unknown", "mixed"), ("yes", "true")):
        page.key("1")
        page.wait(lambda word=word: page.status == f"{FIRST}: {word}")
        assert said(page)[FIRST] == [word, pressed]
    assert page.text("unknown") == f"{len(CHEST_FINDINGS) - 1} not touched: they stay unknown."

    # what was not touched stays unknown
    first = confirm(page)
    assert stored(server)[first] == f"{FIRST}=1"
    assert page.status == f"Saved: {first} is {FIRST}."

    # unless somebody says that the rest is absent
    page.key("2")
    page.key("a")
    page.wait(lambda: page.text("unknown") == "All are known.")
    second = confirm(page, " ")
    values = {name: int(name == SECOND) for name in CHEST_FINDINGS}
    assert stored(server)[second] == "|".join(f"{name}={value}" for name, value in values.items())
    assert page.status == f"Saved: {second} is {SECOND} ({len(CHEST_FINDINGS) - 1} absent)."

    # normal: all are absent
    page.key("n")
    third = confirm(page)
    assert set(stored(server)[third].split("|")) == {f"{name}=0" for name in CHEST_FINDINGS}

    # undo, and correct what was said; a mouse does not take the keys away
    page.key("u")
    page.wait(lambda: page.name == third and page.is_ready)
    assert third not in stored(server)
    page.click_class(len(CHEST_FINDINGS) - 1)
    page.wait(lambda: said(page)[CHEST_FINDINGS[-1]][0] == "yes")
    assert confirm(page) == third
    assert stored(server)[third] == f"{CHEST_FINDINGS[-1]}=1"
    page.wait(lambda: page.text("labeled-text") == "3 of 24 images labeled")
    state = server.state()
    assert (state["labels"][FIRST], state["absent"][FIRST]) == (1, 1)

    # "Last labels" opens an image with what is said of it
    page.find("last").click()
    page.run("document.querySelector('#last-labels li:nth-child(2) button').click()")
    page.wait(lambda: page.name == second and page.is_ready)
    assert {name: word for name, (word, _) in said(page).items()} == {
        name: "yes" if value else "no" for name, value in values.items()
    }
    assert page.console() == []


def test_the_model_suggests_each_finding_with_its_threshold(server, browser):
    keys = sorted(server.ask("GET", "/datastore/?output=all").json()["objects"])
    for place, key in enumerate(keys[:16]):
        label = {name: int((place + number) % 3 == 0) for number, name in enumerate(CHEST_FINDINGS)}
        assert server.ask("PUT", f"/weckd/label/{key}", json={"label": label}).status_code == 200
    refused = server.ask("PUT", f"/weckd/label/{keys[0]}", json={"label": {"efusion": 1}})
    assert refused.status_code == 400
    assert "expected one of the" in refused.json()["detail"]
    begun = server.ask("POST", "/weckd/train")
    assert begun.status_code == 202, begun.text
    assert server.wait_for_stage()["training"]["error"] is None
    page = Page(browser, server.url)
    limits = server.state()["thresholds"]
    page.wait(lambda: all(probability for _, probability, *_ in page.classes()))
    answer = server.ask("GET", f"/weckd/predict/{page.name}").json()["prediction"]
    assert [one["threshold"] for one in answer] == limits
    for (name, text, *_), one in zip(page.classes(), answer, strict=True):
        word = "yes" if one["threshold"] is not None and one["score"] >= one["threshold"] else "no"
        assert (name, text.split(", ")[1]) == (one["label"], f"model: {word}")
    assert {word for word, _ in said(page).values()} == {"unknown"}  # a suggestion is no label
    assert rebuild_labels(server.log.with_suffix("") / "labels.json")
    assert page.console() == []
