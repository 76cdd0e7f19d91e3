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

"""Check the pages with axe-core, whose file ``axe.min.js`` an environment variable names.

npm pack axe-core && tar xzf axe-core-*.tgz && export MONAI_WECKD_AXE=$PWD/package/axe.min.js
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from label_browser import ForkedServer, Page, needs_browser
from label_server import ROOT, SMALL, needs_monai_label

from monai_weckd.data.phantoms import make_phantom
from monai_weckd.data.phantoms.chest import CHEST_FINDINGS

AXE = Path(os.environ.get("MONAI_WECKD_AXE", ""))

pytestmark = [
    pytest.mark.slow,
    needs_browser,
    needs_monai_label,
    pytest.mark.skipif(not AXE.is_file(), reason="MONAI_WECKD_AXE names no axe.min.js of axe-core"),
]

SIZES = {"wide": (1280, 800), "narrow": (420, 900)}


def violations(page):
    """Return what axe-core finds on a page as it is, as rule and elements."""
    page.run(AXE.read_text(encoding="utf-8"))
    found = page.driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    return {one["id"]: [node["html"][:200] for node in one["nodes"]] for one in found["violations"]}


def set_dark(browser, dark):
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def check(page, browser, title):
    """Check a page as it is in each size, light and dark; leave pictures of it where a variable names a folder."""
    folder = os.environ.get("MONAI_WECKD_SHOTS")
    try:
        for name, size in SIZES.items():
            browser.set_window_size(*size)
            for dark in (False, True):
                set_dark(browser, dark)
                assert violations(page) == {}, (name, dark)
                if folder:
                    browser.save_screenshot(f"{folder}/{title}_{name}_{'dark' if dark else 'light'}.png")
    finally:
        set_dark(browser, False)
        browser.set_window_size(*SIZES["wide"])


@pytest.fixture(scope="module")
def server(forks, copy_ears, tmp_path_factory):
    ears = copy_ears(tmp_path_factory.mktemp("ears") / "images", 60)
    with ForkedServer(forks, ears, tmp_path_factory.mktemp("axe") / "output", settings=SMALL) as server:
        for key in sorted(server.ask("GET", "/datastore/?output=all").json()["objects"])[::3]:
            assert server.ask("PUT", f"/weckd/label/{key}", json={"label": key.split("/")[0]}).status_code == 200
        assert server.ask("POST", "/weckd/train").status_code == 202
        assert server.wait_for_stage()["training"]["error"] is None
        yield server


def test_the_page_of_classes(server, browser, tmp_path):
    page = Page(browser, server.url, who=None)
    page.wait(lambda: page.find("ask").is_displayed())
    assert violations(page) == {}
    page.run("document.body.append(Object.assign(new Image(), { id: 'nameless' }))")
    assert list(violations(page)) == ["image-alt"]  # a fault is found
    page.run("document.getElementById('nameless').remove()")
    page.say_name("Ada")
    page.wait(lambda: page.is_ready and page.find("similar").is_displayed())
    manifest = tmp_path / "mine.csv"
    manifest.write_text(f"file,label\n{page.name},normal\ngone.png,normal\n")
    page.run("for (const box of document.querySelectorAll('details')) box.open = true")
    page.find("manifest").send_keys(str(manifest))
    page.wait(lambda: page.find("manifest-preview").is_displayed())
    check(page, browser, "classes")


def test_a_batch(server, browser):
    page = Page(browser, server.url)
    page.wait(lambda: server.ask("GET", "/weckd/batch").status_code == 200)
    page.key("g")
    page.wait(lambda: page.find("batch").is_displayed())
    page.key("1")
    check(page, browser, "batch")


def test_the_page_of_findings(forks, browser, tmp_path):
    images = make_phantom("chest_xray", tmp_path / "images", items=24)
    options = ["--classes", *CHEST_FINDINGS]
    bundle = ROOT / "bundles" / "chest_xray_chain_classification"
    with ForkedServer(forks, images, tmp_path / "output", settings=SMALL, options=options, bundle=bundle) as server:
        page = Page(browser, server.url)
        page.key("1")
        page.key("2")
        page.key("2")
        check(page, browser, "findings")
