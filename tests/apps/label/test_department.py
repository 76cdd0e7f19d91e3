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

"""A department's day in a browser: two readers, sixty images, and a server that dies twice."""

from __future__ import annotations

import json

import pytest
from label_browser import ForkedServer, Page, needs_browser
from label_server import SMALL, needs_monai_label
from sklearn.metrics import cohen_kappa_score

from monai_weckd.annotation.label_files import rebuild_labels
from monai_weckd.utils.draws import hash_fraction

pytestmark = [needs_browser, needs_monai_label, pytest.mark.slow]

CLASSES = ["chronic_otitis_media", "earwax_plug", "myringosclerosis", "normal"]
IMAGES, TWICE, DIFFERENT, UNCLEAR = 60, 10, 3, 2


@pytest.fixture
def ears(copy_ears, tmp_path):
    return copy_ears(tmp_path / "images", IMAGES)


def truth(name):
    return CLASSES.index(name.split("/")[0])


def become(page, who):
    page.find("change").click()
    page.wait(lambda: page.find("ask").is_displayed())
    page.say_name(who)
    page.wait(lambda: page.text("you-name") == who)


def press(page, key):
    """Press a key, wait for the next image, and return the one before."""
    before = page.name
    page.key(key)
    page.wait(lambda: page.name != before and page.is_ready)
    return before


def log_of(output_dir):
    return [json.loads(line) for line in (output_dir / "labels.log").read_text(encoding="utf-8").splitlines()]


def lasso(page):
    """Draw a loop around the whole map, and return how many images are in it."""
    from selenium.webdriver import ActionChains

    page.find("lasso").click()
    points = page.find("points")
    width, height = points.size["width"] // 2 - 3, points.size["height"] // 2 - 3
    corners = [(-width, -height), (width, -height), (width, height), (-width, height), (-width, -height)]
    drawn = ActionChains(page.driver).move_to_element_with_offset(points, *corners[0]).click_and_hold()
    for corner in corners[1:]:
        drawn.move_to_element_with_offset(points, *corner)
    drawn.release().perform()
    page.wait(lambda: page.find("chosen").is_displayed())
    return int(page.text("chosen-text").split()[0])


def confirm_look_alikes(page):
    """Confirm a batch with one key, and return its images."""
    page.key("g")
    page.wait(lambda: page.find("batch").is_displayed())
    found = page.run("return [...document.querySelectorAll('#batch .cell')].map((cell) => cell.value)")
    page.find("batch-confirm").click()
    page.wait(lambda: page.find("viewer").is_displayed() and not page.find("batch").is_displayed())
    assert f"{len(found)} images are" in page.status
    return found


def more_like(page, server, name):
    """Search images like one on the page of all images, and return their names, the most alike first."""
    page.driver.get(f"{server.url}/explore?like={name}")
    shown = "return [...document.querySelectorAll('#images li')].map((one) => one.textContent)"
    return page.wait(lambda: page.run(shown))


def finish(page, say):
    """Label until no image is left; returns what was said of each image."""
    said = {}
    while page.name != "No image left":
        said[page.name] = number = say(page.name)
        page.label(number)
    return said


def test_a_department_labels_together(forks, ears, tmp_path, browser):
    output_dir = tmp_path / "output"
    keys = [path.relative_to(ears).as_posix() for path in ears.rglob("*.png")]
    by_fraction = sorted(keys, key=lambda key: hash_fraction(4, "read twice", key))
    twice, share = by_fraction[:TWICE], hash_fraction(4, "read twice", by_fraction[TWICE])
    options = ["--read_twice", share, "--classes"]

    # Ada begins with three classes, and cannot tell two images
    with ForkedServer(forks, ears, output_dir, settings=SMALL, options=[*options, *CLASSES[:3]]) as server:
        page = Page(browser, server.url)
        unclear, given = [], []
        while len(given) < 16:
            if page.name in twice or truth(page.name) == 3:
                press(page, "s")
            elif len(unclear) < UNCLEAR:
                unclear.append(press(page, "c"))
            else:
                given.append(page.label(truth(page.name)))
    # the server is killed, and comes back with one class more
    with ForkedServer(forks, ears, output_dir, settings=SMALL, options=[*options, *CLASSES]) as server:
        page = Page(browser, server.url)
        assert server.state()["images"]["set_aside"] == UNCLEAR
        for _ in range(12):
            if page.name in twice:
                press(page, "s")
            else:
                given.append(page.label(truth(page.name)))
        page.wait(lambda: server.ask("GET", "/weckd/batch").status_code == 200)
        batch = confirm_look_alikes(page)
        assert set(batch).isdisjoint([*given, *unclear, *twice])
        # images like one, and a loop around all of the map puts its images before the others
        like = more_like(page, server, given[0])
        assert len(like) > 1
        page.driver.get(f"{server.url}/explore")
        page.wait(lambda: page.find("legend").text)
        assert lasso(page) == IMAGES
        page.find("queue-chosen").click()
        page.wait(lambda: page.text("queued").startswith("Your queue: "))
    # killed once more; both label what is left
    with ForkedServer(forks, ears, output_dir, settings=SMALL, options=[*options, *CLASSES]) as server:
        page = Page(browser, server.url)
        first = finish(page, truth)
        assert set(twice) <= first.keys()
        become(page, "Bela")
        page = Page(browser, server.url, who=None)
        other = set(sorted(twice)[:DIFFERENT])
        second = finish(page, lambda name: (truth(name) + (name in other)) % 4)
        assert second.keys() == set(twice)
        page.wait(lambda: page.text("disputes-title") == f"Disagreements to settle: {DIFFERENT}")
        page.find("disputes").find_element("tag name", "summary").click()
        for left in range(DIFFERENT, 0, -1):
            before = page.name
            page.find("disputes-list").find_element("tag name", "button").click()
            page.wait(lambda before=before: page.name != before and page.is_ready)
            page.label(truth(page.name))
            page.wait(lambda left=left: (page.text("disputes-title") or "0").split()[-1] == str(left - 1))
        found = server.state()
        assert found["images"] | {"labeled": IMAGES - UNCLEAR, "set_aside": UNCLEAR, "disputed": 0} == found["images"]
        [pair] = found["agreement"]["cohen"]
        names = sorted(twice)
        kappa = cohen_kappa_score([first[name] for name in names], [second[name] for name in names])
        assert pair["kappa"] == pytest.approx(kappa, abs=1e-12)
        assert page.console() == []
    path = output_dir / "labels.json"
    content = path.read_bytes()
    path.unlink()
    rebuild_labels(path)
    assert path.read_bytes() == content
    confirmed = [line for line in log_of(output_dir) if "batch" in line.get("info", {})]
    assert sorted(line["id"] for line in confirmed) == sorted(batch)
    assert {line["who"] for line in confirmed} == {"Ada"}
