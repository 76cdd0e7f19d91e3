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
import re
import time
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from label_browser import ForkedServer, Page, needs_browser
from label_server import SMALL, needs_monai_label
from PIL import Image

from monai_weckd.annotation.queues import MOST_QUEUED
from monai_weckd.apps.label.explore import make_explorer


@pytest.fixture
def client():
    """Return a client of the routes, of a session that notes what it is asked for."""
    asked = []
    session = SimpleNamespace(
        queue=lambda ids, who: asked.append(ids) or len(ids), queues=SimpleNamespace(of=lambda who: ["a"])
    )
    app = FastAPI()
    app.include_router(make_explorer(session))
    with TestClient(app) as client:
        client.asked = asked
        yield client


def test_a_queue_is_filled_counted_and_emptied(client):
    assert client.post("/weckd/queue", json={"ids": ["a", "b/c.png"]}).json() == {"queued": 2}
    assert client.get("/weckd/queue").json() == {"queued": 1}
    assert client.delete("/weckd/queue").json() == {"queued": 0}
    assert client.asked == [["a", "b/c.png"], []]


@pytest.mark.parametrize(
    "body", [{}, {"ids": []}, {"ids": "a"}, {"ids": [1]}, {"ids": ["a"] * (MOST_QUEUED + 1)}, ["a"], None]
)
def test_a_queue_of_something_else_is_refused(client, body):
    assert client.post("/weckd/queue", json=body).status_code == 422
    assert client.asked == []


@pytest.mark.parametrize("query", ["count=0", f"count={MOST_QUEUED + 1}", "count=x", "first=-1"])
def test_a_part_that_is_none_is_refused(client, query):
    assert client.get(f"/weckd/gallery?{query}").status_code == 422
    if query.startswith("count"):
        assert client.get(f"/weckd/alike/a.png?{query}").status_code == 422


@needs_monai_label
class TestServer:
    def test_all_images_are_on_the_map_and_in_a_list(self, server):
        found = server.ask("GET", "/weckd/map").json()
        images = server.ask("GET", "/weckd/gallery?count=1000").json()
        assert sorted(found["ids"]) == sorted(image["id"] for image in images["images"])
        assert len({len(found[name]) for name in ("ids", "x", "y", "label", "predicted", "disagreement")}) == 1
        assert {image["label"] for image in images["images"]} >= {"normal", None}
        unlabeled = [place for place, label in zip(found["predicted"], found["label"], strict=True) if label < 0]
        assert 0 <= min(unlabeled) <= max(unlabeled) < found["predictable"] == 4

    def test_a_thumbnail_is_small_and_not_kept(self, server, image):
        answer = server.ask("GET", f"/weckd/thumbnail/{image}")
        assert (answer.headers["Content-Type"], answer.headers["Cache-Control"]) == ("image/jpeg", "no-store")
        assert max(Image.open(io.BytesIO(answer.content)).size) == 128

    def test_an_image_is_most_like_itself(self, server, image):
        found = server.ask("GET", f"/weckd/alike/{image}?count=5").json()
        assert (found["images"][0]["id"], found["total"]) == (image, 5)

    def test_what_is_not_there_is_refused(self, server, image):
        for path in ("alike", "thumbnail"):
            assert server.ask("GET", f"/weckd/{path}/gone.png").status_code == 404
        assert server.ask("POST", "/weckd/queue", json={"ids": [image, "gone.png"]}).status_code == 404
        answer = server.ask("GET", "/weckd/gallery?show=unsur")
        assert answer.status_code == 400
        assert "Did you mean 'unsure'" in answer.json()["detail"]


class Explore(Page):
    """The page of all images, as somebody sees and handles it."""

    def __init__(self, driver, url, *, query=""):
        self.driver = driver
        self.console()
        driver.get(f"{url}/explore{query}")
        self.wait(lambda: self.cards and self.run("return document.querySelectorAll('#legend li').length > 0"))

    name = status = ""  # what the page for labels would say of a failure

    @property
    def cards(self):
        return self.run("""return [...document.querySelectorAll("#images li")].map(
            (card) => card.querySelector("bdi").textContent)""")

    @property
    def total(self):
        return int(re.match(r"\d+", self.text("count") or "0")[0])

    def select(self, box, value):
        self.run(
            "const box = document.getElementById(arguments[0]); box.value = arguments[1];"
            "box.dispatchEvent(new Event('change', { bubbles: true }))",
            box,
            value,
        )

    def drag(self, *corners):
        """Drag the pointer over places of the map, each a share of its width and height."""
        from selenium.webdriver import ActionChains

        canvas = self.find("points")
        width, height = canvas.size["width"], canvas.size["height"]
        places = [(round((x - 0.5) * (width - 4)), round((y - 0.5) * (height - 4))) for x, y in corners]
        moves = ActionChains(self.driver, duration=20)
        moves.move_to_element_with_offset(canvas, *places[0]).click_and_hold()
        for place in places[1:]:
            moves.move_to_element_with_offset(canvas, *place)
        moves.release().perform()


@pytest.fixture(scope="module")
def ears(copy_ears, tmp_path_factory):
    folder = copy_ears(tmp_path_factory.mktemp("ears") / "images", 40)
    (folder / "normal" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


def wait(condition):
    until = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.fixture(scope="module")
def set_server(forks, ears, tmp_path_factory):
    """Return a server whose images have been seen, a quarter of them with labels."""
    with ForkedServer(forks, ears, tmp_path_factory.mktemp("set") / "output", settings=SMALL) as server:
        wait(lambda: len(server.ask("GET", "/weckd/map").json()["ids"]) == 40 and server.state()["unreadable"])
        given = server.ask("GET", "/weckd/map").json()["ids"][::4]
        for key in given:
            body, who = {"label": key.split("/")[0]}, {"X-Weckd-Person": "Eve"}
            server.ask("PUT", f"/weckd/label/{key}", json=body, headers=who)
        wait(lambda: (server.state()["live"] or {}).get("labels") == len(given))
        yield server


@needs_browser
@needs_monai_label
class TestPage:
    def test_what_somebody_circles_on_the_map_is_asked_for_next(self, set_server, browser):
        labeling = Page(browser, set_server.url)  # who has said her name there
        page = Explore(browser, set_server.url)
        page.find("lasso").click()
        page.drag((0, 0), (0.4, 0), (0.4, 1), (0, 1))
        found = set_server.ask("GET", "/weckd/map").json()
        width = page.find("points").size["width"]
        places = zip(found["ids"], found["x"], strict=True)
        inside = {key for key, x in places if 24 + x / 9999 * (width - 48) < 0.4 * width}
        assert 0 < len(inside) < len(found["ids"])
        page.wait(lambda: page.text("chosen-text"))
        assert abs(int(page.text("chosen-text").split()[0]) - len(inside)) <= 2  # a pixel at the edge
        assert not page.find("alike").is_displayed()  # no point was clicked
        page.find("queue-chosen").click()
        page.wait(lambda: page.text("queued").startswith("Your queue: "))
        browser.find_element("link text", "Label").click()
        labeling.wait(lambda: labeling.is_ready)
        assert labeling.name in inside
        assert "you queued it" in labeling.text("reason")
        page = Explore(browser, set_server.url)
        page.find("empty").click()
        page.wait(lambda: page.text("queued") == "Your queue is empty")
        assert page.console() == []

    def test_lists_show_some_images_and_those_like_one(self, set_server, browser):
        page = Explore(browser, set_server.url)
        assert page.total == 41
        page.select("show", "unreadable")
        page.wait(lambda: page.total == 1)
        assert page.cards == ["normal/broken.png"]
        assert "Repair" in page.text("images")
        assert not page.find("queue-all").is_enabled()
        page.select("show", "labeled")
        page.wait(lambda: page.total == 10)
        page.select("person-of", "Eve")
        page.select("label-of", "normal")
        page.wait(lambda: 0 < page.total < 10)
        assert {name.split("/")[0] for name in page.cards} == {"normal"}
        first = page.cards[0]
        page.driver.find_element("css selector", "#images button").click()
        page.wait(lambda: page.find("alike").is_displayed() and page.total == 40)
        assert (page.text("alike-name"), page.cards[0]) == (first, first)
        page.find("not-alike").click()
        page.wait(lambda: 0 < page.total < 10)
        assert page.console() == []

    def test_an_image_of_the_page_for_labels_leads_to_those_like_it(self, set_server, browser):
        labeling = Page(browser, set_server.url)
        name = labeling.name
        labeling.find("like").click()
        page = Explore(browser, browser.current_url.partition("/explore")[0], query=f"?like={name}")
        assert page.cards[0] == name

    def test_the_map_can_be_moved_by_keys_and_named_colors_stand_alone(self, set_server, browser):
        page = Explore(browser, set_server.url)
        before = page.run("return document.getElementById('points').toDataURL()")
        page.find("points").click()
        page.find("points").send_keys("+")
        page.wait(lambda: page.run("return document.getElementById('points').toDataURL()") != before)
        page.find("points").send_keys("0")
        page.wait(lambda: page.run("return document.getElementById('points').toDataURL()") == before)
        page.driver.find_element("css selector", "#legend button").click()
        page.wait(lambda: page.run("return document.getElementById('points').toDataURL()") != before)

    def test_a_narrow_window_scrolls_in_one_direction(self, set_server, browser):
        browser.set_window_size(500, 900)
        page = Explore(browser, set_server.url)
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")
