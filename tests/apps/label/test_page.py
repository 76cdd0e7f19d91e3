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

import hashlib
import json
import re
import shutil
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from label_browser import ForkedServer, Page, needs_browser
from label_server import OTOSCOPY, SMALL, VALIDATED, needs_monai_label
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from monai_weckd.annotation.label_files import rebuild_labels
from monai_weckd.apps.label import page

pytestmark = [needs_browser, needs_monai_label]

CLASSES = ["chronic_otitis_media", "earwax_plug", "myringosclerosis", "normal"]
FOLDER = Path(page.__file__).with_name("page")
# what others have written is in files of that name
FOREIGN = "d3."
FILES = ["", "explore", *sorted(f"page/{path.name}" for path in FOLDER.iterdir() if path.suffix != ".html")]
# markup, quotes, what an address would be cut at, and a mark that turns the rest around
HOSTILE = "<img src=x onerror=\"document.title='!'\">&amp;'%2f#?\u202egnp.png"


@pytest.fixture(scope="module")
def ears(copy_ears, tmp_path_factory):
    return copy_ears(tmp_path_factory.mktemp("ears") / "images", 40)


@pytest.fixture
def server(forks, ears, tmp_path):
    with ForkedServer(forks, ears, tmp_path / "output", settings=VALIDATED, options=["--label_budget", 14]) as server:
        yield server


@pytest.fixture(scope="module")
def idle_server(forks, ears, tmp_path_factory):
    with ForkedServer(forks, ears, tmp_path_factory.mktemp("idle") / "output", settings=SMALL) as server:
        yield server


def truth(page):
    """Return the number of the class of the phantom that is shown."""
    return CLASSES.index(page.name.split("/")[0])


def stored(server):
    """Return the labels on the disk."""
    path = server.log.with_suffix("") / "labels.json"
    return {key: entry["label"] for key, entry in json.loads(path.read_text())["labels"].items()}


def test_the_page_loads_nothing_from_elsewhere(idle_server):
    for name in FILES:
        answer = idle_server.ask("GET", f"/{name}")
        assert answer.status_code == 200
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'; base-uri 'none'")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        if FOREIGN in name:
            continue
        links = set(re.findall(r"(?:https?:)?//[\w.]+", answer.text.replace("http://www.apache.org/", "")))
        assert links <= {"http://www.w3.org"}, name  # the namespace of the icon
        assert "style=" not in answer.text
        assert "innerHTML" not in answer.text
    assert idle_server.ask("GET", "/page/page.py").status_code == 404


def test_without_validation_all_labels_train_and_the_page_says_so(forks, ears, tmp_path, browser):
    with ForkedServer(forks, ears, tmp_path / "output", settings=SMALL) as server:
        page = Page(browser, server.url)
        given = [page.label(truth(page)) for _ in range(4)]
        assert len({key.split("/")[0] for key in given}) > 1
        page.find("train").click()
        page.wait(lambda: page.status == "Stage 1 accepted.")
        assert page.error == ""
        assert page.text("metric") == "Validation"
        assert page.text("rows") == "14\N{EN DASH}\N{EN DASH}\N{CHECK MARK} accepted"
        assert "No labels are held out for validation" in page.text("caption")
        [stage] = server.state()["stages"]
    assert (stage["labeled"], stage["accepted"], stage["value"], stage["metric"]) == (4, True, None, None)
    assert set(stage["validation"].values()) == {None}


def test_the_library_of_others_is_the_published_one():
    content = (FOLDER / "d3.min.js").read_bytes()
    assert content.startswith(b"// https://d3js.org v7.9.2 ")
    assert hashlib.sha256(content).hexdigest() == "912111098ea99503a6f4967361d2bbdc9dbf58cf9c678c8e27e5b02d1a07f0c1"
    assert "ISC" in (FOLDER.parents[3] / "docs" / "design.md").read_text("utf-8")
    assert b"Permission to use, copy, modify" in (FOLDER / "d3.LICENSE.txt").read_bytes()


@pytest.mark.slow
def test_somebody_labels_and_trains(server, browser):
    page = Page(browser, server.url)
    assert page.text("reason").startswith("Why this one: ")
    assert page.text("budget-text") == "Label budget: 0 of 14"

    # too early: one line, and a retry
    page.key("t")
    page.wait(lambda: page.error)
    assert page.error.startswith("No stage was started. labels: expected")

    given = {page.label(truth(page), click=True): None for _ in range(2)}
    given |= {page.label(truth(page)): None for _ in range(10)}
    assert stored(server) == {key: key.split("/")[0] for key in given}
    assert page.status == f"Saved: {list(given)[-1]} is {stored(server)[list(given)[-1]]}."
    assert page.error == ""
    page.wait(lambda: page.text("labeled-text") == "12 of 40 images labeled")

    # skip, take it back, skip again: it does not come again, nor after a reload
    page = Page(browser, server.url)  # the window keeps the image that it has got ready
    skipped = page.name
    page.key("s")
    page.wait(lambda: page.name != skipped and page.is_ready)
    page.key("u")
    page.wait(lambda: page.name == skipped and page.is_ready)
    page.find("skip").click()
    page.wait(lambda: page.name != skipped and page.is_ready)
    after = page.name
    page = Page(browser, server.url)
    assert page.name == after
    assert page.text("labeled-text") == "12 of 40 images labeled"

    # undo, by both keys
    for undo in (lambda: page.key("u"), lambda: page.chord("\ue009", "z")):
        last = page.label(truth(page))
        assert last in stored(server)
        undo()
        page.wait(lambda last=last: page.name == last and page.is_ready)
        assert last not in stored(server)
        assert page.status == f"Taken back: {last} has no label."

    # a wrong class, seen later and corrected
    right = truth(page)
    wrong = page.label((right + 1) % 4)
    page.wait(lambda: page.find("last-labels").get_attribute("textContent").startswith(wrong))
    page.find("last").find_element("tag name", "summary").click()
    page.find("last-labels").find_element("tag name", "button").click()
    page.wait(lambda: page.name == wrong and page.is_ready)
    assert [chosen for *_, chosen in page.classes()].index("true") == (right + 1) % 4
    page.label(right)
    assert page.status == f"Saved: {wrong} is {CLASSES[right]} instead of {CLASSES[(right + 1) % 4]}."
    assert stored(server)[wrong] == CLASSES[right]

    page.label(truth(page))
    page.wait(lambda: page.text("budget-text") == "Label budget: 14 of 14: all used")

    # a stage, with the bars that it brings
    assert [probability for _, probability, *_ in page.classes()] == [""] * 4
    page.find("train").click()
    page.wait(lambda: page.status.startswith("Stage 1 accepted: macro AUC "))
    page.wait(lambda: page.classes()[0][1])
    expected = server.ask("GET", f"/weckd/predict/{page.name}").json()["prediction"]
    bars = [round(100 * one["score"]) for one in expected]
    assert [int(probability.rstrip("%")) for _, probability, *_ in page.classes()] == pytest.approx(bars, abs=1)
    counts = list(server.state()["labels"].values())
    assert [int(count.split()[0]) for _, _, count, _ in page.classes()] == counts

    for _ in range(6):
        page.label(truth(page))
    assert page.text("reason").startswith("Why this one: stands for uncertain images")
    page.key("t")
    page.wait(lambda: len(page.table()) == 2)
    for stage, row in zip(server.state()["stages"], page.table(), strict=True):
        before = "\N{EN DASH}" if stage["previous"] is None else f"{stage['previous']:.3f}"
        verdict = "✓ accepted" if stage["accepted"] else "✗ rejected"
        assert row == [str(stage["stage"]), str(stage["labeled"]), f"{stage['value']:.3f}", before, verdict]

    assert Page(browser, server.url, query="?budget=30").text("budget-text") == "Label budget: 20 of 30"
    loaded = page.run("return performance.getEntriesByType('resource').map((one) => new URL(one.name).origin)")
    assert set(loaded) == {server.url}
    assert page.console() == []


@pytest.mark.slow
def test_the_server_dies_and_comes_back(forks, ears, tmp_path, browser):
    server = ForkedServer(forks, ears, tmp_path / "output", settings=SMALL)
    with server:
        page = Page(browser, server.url)
        for _ in range(12):
            page.label(truth(page))
        shown, right = page.name, truth(page)
    page.key(str(right + 1))
    page.wait(lambda: page.error)
    assert (
        page.error
        == f"Not saved: {shown} as {CLASSES[right]}. The server does not answer. Check that it runs, then retry."
    )
    assert page.status == ""
    assert page.name == shown
    assert shown not in stored(server)
    page.key("u")  # nothing else is begun before it is saved
    assert page.status == "Retry, choose again, or skip: the last label is not saved."
    with server:
        page.find("retry").click()
        page.wait(lambda: page.name != shown and page.is_ready)
        assert page.error == ""
        assert stored(server)[shown] == CLASSES[right]
        page.find("train").click()
        page.wait(lambda: page.text("training-text").startswith("Stage 1: epoch 0 of "))
    page.wait(lambda: page.error)
    before = page.name
    with server:
        page.wait(lambda: page.error == "")
        page.wait(lambda: page.status == "Stage 1 was interrupted. Train it again.")
        assert page.name == before
        page.label(truth(page))
        assert len(stored(server)) == 14


def test_progress_and_failure_of_a_stage_are_told(server, browser):
    page = Page(browser, server.url)
    # the same page, whose server says in turn that it trains and that it has failed
    page.run("""const ask = window.fetch;
        window.training = { running: true, stage: 3, epoch: 5, epochs: 12, error: null };
        window.fetch = async (address, options) => {
          if (!address.startsWith("weckd/state")) return ask(address, options);
          const state = await (await ask(address, options)).json();
          return new Response(JSON.stringify({ ...state, training: window.training }));
        };""")
    page.label(0)  # after which the state is asked for, too
    page.wait(lambda: page.text("training-text") == "Stage 3: epoch 5 of 12")
    assert page.run("return [epochs.value, epochs.max, epochs.labels[0].id]") == [5, 12, "training-text"]
    assert page.find("train").get_attribute("aria-disabled") == "true"
    page.find("stop").click()
    page.wait(lambda: page.error.startswith("Not stopped. stage: expected one in training, got none."))
    page.run("window.training = { running: false, stage: 3, epoch: 5, epochs: 12, error: 'disk: expected room' }")
    page.wait(lambda: page.status == "Stage 3 ended early.")
    assert page.text("training-error") == "Stage 3 ended early. disk: expected room"
    assert page.find("training-error").is_displayed()
    assert not page.find("training-row").is_displayed()


def test_a_label_whose_answer_was_lost_is_taken_back_as_a_whole(server, browser):
    page = Page(browser, server.url)
    shown = page.name
    page.run("""const ask = window.fetch;
        window.fetch = async (address, options) => {
          const answer = await ask(address, options);
          if (options.method !== "PUT") return answer;
          window.fetch = ask;
          throw new TypeError("lost");
        };""")
    page.key("1")
    page.wait(lambda: page.error.startswith(f"Not saved: {shown} as {CLASSES[0]}."))
    assert stored(server) == {shown: CLASSES[0]}  # but it was
    page.find("retry").click()
    page.wait(lambda: page.name != shown and page.is_ready)
    assert page.status == f"Saved: {shown} is {CLASSES[0]}."
    page.key("u")
    page.wait(lambda: page.name == shown and page.is_ready)
    assert stored(server) == {}
    assert page.status == f"Taken back: {shown} has no label."


def test_a_retry_that_is_clicked_twice_is_one(server, browser):
    page = Page(browser, server.url)
    skipped = page.name
    page.run("""const ask = window.fetch;
        window.asked = [];
        window.fetch = async (address, options) => {
          if (address !== "weckd/next") return ask(address, options);
          window.asked.push(address);
          if (window.asked.length === 1) throw new TypeError("gone");
          await new Promise((go) => setTimeout(go, 500));
          return ask(address, options);
        };""")
    page.key("s")
    page.wait(lambda: page.error)
    page.run("retry.click(); retry.click()")
    page.wait(lambda: page.name != skipped and page.is_ready)
    assert len(page.run("return window.asked")) == 2


def test_a_server_with_another_chain_is_gone_on_with(server, browser):
    page = Page(browser, server.url)
    page.run("""const ask = window.fetch;
        const stage = { stage: 1, labeled: 8, metric: "val_macro_auc", value: 0.5, previous: null, accepted: true };
        window.stages = [stage];
        window.fetch = async (address, options) => {
          const answer = await ask(address, options);
          if (!address.startsWith("weckd/state")) return answer;
          return new Response(JSON.stringify({ ...await answer.json(), stages: window.stages }));
        };""")
    page.label(0)
    page.wait(lambda: page.status == "Stage 1 accepted: macro AUC 0.500.")
    page.run("window.stages = []")
    page.label(0)
    page.wait(lambda: page.table() == [] or not page.find("stages").is_displayed())
    time.sleep(0.2)
    assert page.console() == []


def test_two_windows_get_different_images_and_do_not_lose_each_others_labels(server, browser):
    first = Page(browser, server.url)
    shown, window = first.name, browser.current_window_handle
    browser.switch_to.new_window("tab")
    second = Page(browser, server.url)
    other = second.name
    assert other != shown

    def say(image, label):
        answer = server.ask("PUT", f"/weckd/label/{image}", json={"label": label}, headers={"X-Weckd-Person": "Cy"})
        assert answer.status_code == 200

    assert second.label(0) == other
    say(other, CLASSES[1])
    # it cannot take back what is no longer its own
    second.key("u")
    second.wait(lambda: second.name == other and second.is_ready)
    assert second.status == f"{other} stays as it is: its label has been changed elsewhere."
    # nor the same class, given by somebody else
    again = second.name
    second.key("2")
    second.wait(lambda: second.name != again and second.is_ready)
    say(again, CLASSES[0])
    say(again, CLASSES[1])
    second.key("u")
    second.wait(lambda: second.name == again and second.is_ready)
    assert second.status == f"{again} stays as it is: its label is now that of somebody else."
    browser.switch_to.window(window)
    assert first.name == shown
    say(shown, CLASSES[0])
    first.label(1)
    # "given meanwhile elsewhere", unless the page has already asked for news
    assert first.status.startswith(f"Saved: {shown} is {CLASSES[1]} instead of {CLASSES[0]}")
    assert stored(server) == {shown: CLASSES[1], other: CLASSES[1]}
    assert again == other
    browser.switch_to.window(next(one for one in browser.window_handles if one != window))
    browser.close()
    browser.switch_to.window(window)


def test_hostile_names_are_text(forks, tmp_path, browser):
    names = ["<b>ill</b>", '"onclick="alert(1)', "&lt;normal", "\u202eegassem"]
    bundle = shutil.copytree(OTOSCOPY, tmp_path / "bundle")
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = dict(zip("0123", names, strict=True))
    (bundle / "configs/metadata.json").write_text(json.dumps(metadata))
    studies = tmp_path / "a&b <i>"
    studies.mkdir()
    Image.fromarray(np.full((8, 9, 3), 200, np.uint8)).save(studies / HOSTILE, format="PNG")
    with ForkedServer(forks, studies, tmp_path / "output", settings=SMALL, bundle=bundle) as server:
        page = Page(browser, server.url)
        assert page.name == HOSTILE.replace("\u202e", "\\u202e")
        assert [name for name, *_ in page.classes()] == [*names[:3], "\\u202eegassem"]
        np.testing.assert_array_equal(page.pixels(), 200)
        page.label(3)
        assert page.status == f"Saved: {HOSTILE} is {names[3]}.".replace("\u202e", "\\u202e")
        assert stored(server) == {HOSTILE: names[3]}
        page.wait(lambda: page.find("last").is_displayed())
        assert page.text("blank") == "Each image has a label."
        page.key("u")
        page.wait(lambda: page.is_ready)
        assert stored(server) == {}
        assert (
            page.run("return document.querySelectorAll('img:not(#before, #after), b, i, [onclick], [onerror]').length")
            == 0
        )
        assert page.run("return document.title") == "Label: bundle"
        assert page.console() == []


def test_an_image_that_cannot_be_read_is_told_and_no_way_blocked(forks, tmp_path, browser):
    studies = tmp_path / "studies"
    studies.mkdir()
    rows = ["file,label,group"]
    for number in range(2):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(studies / f"{number}.png")
    (studies / "bad.png").write_bytes(b"no picture")
    (studies / "manifest.csv").write_text("\n".join([*rows, *(f"{name}.png,,one" for name in ("0", "1", "bad"))]))
    with ForkedServer(forks, studies, tmp_path / "output", settings=SMALL) as server:
        page = Page(browser, server.url)
        page.wait(lambda: server.state()["images"]["unreadable"] == 1)
        if page.name == "bad.png":  # it came before the server had looked
            page.key("s")
            page.wait(lambda: page.is_ready)
        # beside an image stand others that can be shown, and no broken one
        related = "return [...document.querySelectorAll('#related-images .cell')].map((one) => one.textContent)"
        page.wait(lambda: page.run(related) == [f"{1 - int(page.name[0])}.png"])
        # who opens it is told how to go on
        page.driver.get(f"{server.url}/explore")
        assert server.ask("POST", "/weckd/queue", json={"ids": ["bad.png"]}).json() == {"queued": 0}
        page = Page(browser, server.url)
        page.run("""const ask = window.fetch;
            window.fetch = async (address, options) => address === "weckd/next"
              ? new Response(JSON.stringify({ id: "bad.png", reason: "", probabilities: null, more: [] }))
              : ask(address, options);
            window.heal = () => { window.fetch = ask; };""")
        page.key("1")
        page.wait(lambda: page.error)
        assert page.error.endswith(" Skip it to go on."), page.error
        page.run("window.heal()")
        page.key("s")
        page.wait(lambda: page.is_ready)
        assert page.error == ""
        page.label(0)
        assert page.name == "No image left"
        page.wait(lambda: page.text("blank") == "No image waits for your label: the counts under Labels say why.")
        page.key("1")
        assert page.status == "No image is shown: no label was given."


def test_long_names_stay_in_their_place(forks, tmp_path, browser):
    studies = tmp_path / "studies"
    studies.mkdir()
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(studies / "0.png")
    long = ["x" * 120, "a long name of many words, more than fit into a line " * 2]
    options = ["--classes", *long]
    with ForkedServer(forks, studies, tmp_path / "output", settings=SMALL, options=options) as server:
        assert server.ask("PUT", "/weckd/label/0.png", json={"label": long[0]}).status_code == 200
        while server.ask("GET", "/weckd/map").json()["ids"] != ["0.png"]:
            time.sleep(0.05)
        for width in (1280, 400):
            browser.set_window_size(width, 800)
            browser.get(f"{server.url}/explore")
            legend = (
                "return document.getElementById('legend').textContent + document.getElementById('filters').textContent"
            )
            while browser.execute_script(legend).count(long[0]) < 3:
                time.sleep(0.05)
            too_wide = """return [...document.querySelectorAll('#chart *, #list *')].filter((one) => {
                const box = one.closest('#chart, #list').getBoundingClientRect(), own = one.getBoundingClientRect();
                return own.width > 0 && own.right > box.right + 1; }).map((one) => one.outerHTML.slice(0, 80))"""
            assert browser.execute_script(too_wide) == [], width


def test_a_copy_of_a_window_is_another_window(server, browser):
    page = Page(browser, server.url)
    shown, first = page.name, browser.current_window_handle
    page.run("window.open(location.href)")  # with what the browser keeps of the window, as "Duplicate" does
    browser.switch_to.window(next(one for one in browser.window_handles if one != first))
    page.wait(lambda: page.is_ready)
    assert page.name != shown
    page.label(0)
    page.run("location.reload()")
    page.wait(lambda: page.is_ready and page.status == "")
    page.key("u")
    page.wait(lambda: page.status.startswith("Taken back"))
    browser.close()
    browser.switch_to.window(first)
    page.key("u")
    assert page.status == "Nothing to undo in this window."
    page.run("location.reload()")
    page.wait(lambda: page.is_ready and page.status == "")
    assert page.name == shown


def test_an_address_with_a_password_opens_the_page(forks, ears, tmp_path, browser):
    people = tmp_path / "people"
    people.write_text("Zoë Müller:pass wörd 1\nBéla:pass word 2")
    people.chmod(0o600)
    options = ["--password_file", people]
    with ForkedServer(forks, ears, tmp_path / "output", settings=SMALL, options=options) as server:
        address = server.url.replace("://", f"://{quote('Zoë Müller')}:{quote('pass wörd 1')}@")
        page = Page(browser, address, who=None)
        assert page.error == ""
        page.label(0)
        log = (tmp_path / "output" / "labels.log").read_text(encoding="utf-8")
        assert [json.loads(line)["who"] for line in log.splitlines()] == ["Zoë Müller"]


@pytest.mark.slow  # a folder is listed anew after some seconds
def test_undo_goes_on_where_an_image_is_gone(forks, tmp_path, browser):
    studies = tmp_path / "studies"
    studies.mkdir()
    for number in range(3):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(studies / f"{number}.png")
    with ForkedServer(forks, studies, tmp_path / "output", settings=SMALL) as server:
        page = Page(browser, server.url)
        first, second = page.label(0), page.label(1)
        (studies / second).unlink()
        page.wait(lambda: server.ask("GET", f"/weckd/image/{second}").status_code == 404)
        page.key("u")
        page.wait(lambda: page.error.startswith("id: expected an image in 'studies'"))
        page.key("u")
        page.wait(lambda: page.name == first and page.is_ready)
        assert page.error == ""
        assert first not in stored(server)


def test_a_key_that_is_held_labels_one_image(server, browser):
    page = Page(browser, server.url)

    def press(*, repeats):
        event = {"type": "rawKeyDown", "key": "1", "autoRepeat": repeats}
        browser.execute_cdp_cmd("Input.dispatchKeyEvent", event)

    before = page.name
    press(repeats=False)
    page.wait(lambda: page.name != before and page.is_ready)
    for _ in range(3):
        press(repeats=True)
        time.sleep(0.1)
        page.wait(lambda: page.is_ready)
    assert len(stored(server)) == 1
    after = page.name
    press(repeats=False)
    page.wait(lambda: page.name != after and page.is_ready)
    assert len(stored(server)) == 2


def test_it_works_by_keyboard_alone_and_tells_what_it_is(server, browser):
    from selenium.webdriver import Keys

    Page(browser, server.url)
    page = Page(browser, server.url)  # which does not ask for a name again
    reached = []
    for _ in range(40):
        page.key(Keys.TAB)
        found = page.run("""const one = document.activeElement, style = getComputedStyle(one);
            return [one.id || one.className, style.outlineStyle, parseFloat(style.outlineWidth)]""")
        reached.append(found[0])
        if found[0] == "keys":
            break
        assert found[1] == "solid", found
        assert found[2] >= 2, found
    assert [one for one in reached if one not in ("class", "answer", "cell")] == [
        "like",
        "",  # all images
        "screen",
        "skip",
        "undo",
        "look-alikes",
        "adding-title",
        "manifest-title",
        "train",
        "change",
        "keys",
    ]
    assert reached.count("class") == 4
    page.key(Keys.SPACE)  # single keys off
    page.key("1")
    time.sleep(0.2)
    assert server.state()["budget"] == 0
    before = page.name
    page.run("document.querySelector('.class').focus()")
    page.key(Keys.ENTER)
    page.wait(lambda: page.name != before and page.is_ready)
    assert stored(server) == {before: CLASSES[0]}
    page.find("keys").click()
    nameless = page.run("""return [...document.querySelectorAll("input, progress, button")].filter((one) =>
        !(one.labels?.length || one.textContent.trim())).map((one) => one.id)""")
    assert nameless == []
    assert page.find("status").get_attribute("role") == "status"
    assert page.find("error").get_attribute("role") == "alert"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (500, 700)])
def test_it_fits_and_can_be_read(idle_server, browser, scheme, size):
    browser.set_window_size(*size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    page = Page(browser, idle_server.url)
    wide, inner = page.run("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= inner
    assert page.find("picture").rect["height"] > 150
    assert page.run("return document.querySelector('.class').getBoundingClientRect().bottom < window.innerHeight")
    colors = page.run("""const style = (one) => getComputedStyle(document.querySelector(one));
        return [style("body").backgroundColor, style("body").color, style(".note").color]""")
    ground, *texts = (luminance(color) for color in colors)
    assert (ground > 0.5) == (scheme == "light")
    for text in texts:
        assert (max(ground, text) + 0.05) / (min(ground, text) + 0.05) >= 4.5  # WCAG 2.2, 1.4.3


def luminance(color):
    """Return the relative luminance of a color as WCAG 2.2 defines it."""
    parts = np.array([int(part) for part in re.findall(r"\d+", color)[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def log_of(server):
    """Return who did what, line by line."""
    path = server.log.with_suffix("") / "labels.log"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_page_asks_once_for_a_name_which_each_label_carries(server, browser):
    page = Page(browser, server.url, who=None)
    assert page.find("ask").is_displayed()
    assert not page.find("you").is_displayed()
    page.wait(lambda: not page.run("return document.getElementById('frame').hidden"))
    for act in (lambda: page.key("1"), lambda: page.click_class(0), lambda: page.find("skip").click()):
        page.run("document.activeElement.blur()")
        act()  # nothing is done without a name
        assert page.status == "Enter your name first: each label says who gave it."
        assert page.run("return document.activeElement.id") == "person"
    assert server.state()["budget"] == 0
    page.find("person").send_keys("  ")
    page.find("use").click()
    assert page.find("ask").is_displayed()
    page.find("person").clear()
    page.find("person").send_keys("a\u200bb")
    page.find("use").click()
    page.wait(lambda: page.status.startswith("name: expected a name of 1 to 64 characters that can be seen"))
    page.say_name("B\u00e9la 1su")  # whose letters are no keys here
    page.wait(lambda: page.is_ready)
    assert (page.error, server.state()["budget"]) == ("", 0)
    assert page.text("you-name") == "B\u00e9la 1su"
    first = page.label(0)
    page = Page(browser, server.url, who=None)  # not again
    assert not page.find("ask").is_displayed()
    skipped = page.name
    page.key("s")
    page.wait(lambda: page.name != skipped and page.is_ready)
    page.find("change").click()
    page.wait(lambda: page.find("ask").is_displayed())
    page.say_name("<b>Ada</b>")
    page.wait(lambda: page.is_ready)
    second = page.label(1)
    page.key("u")
    page.wait(lambda: page.name == second and page.is_ready)
    page.wait(
        lambda: page.run("return document.querySelector('#last-labels').textContent").endswith(", by B\u00e9la 1su")
    )
    assert [(line["who"], line["what"], line["id"]) for line in log_of(server)] == [
        ("B\u00e9la 1su", "label", first),
        ("B\u00e9la 1su", "skip", skipped),
        ("<b>Ada</b>", "label", second),
        ("<b>Ada</b>", "undo", second),
    ]
    kept = json.loads((server.log.with_suffix("") / "labels.json").read_text())["labels"]
    assert kept == {first: {"label": CLASSES[0], "who": "B\u00e9la 1su", "ts": log_of(server)[0]["ts"]}}
    assert page.console() == []


def test_names_come_from_the_proxy_where_it_says_so(forks, ears, tmp_path, browser):
    options = ["--user_header", "X-Remote-User"]
    with ForkedServer(forks, ears, tmp_path / "output", settings=SMALL, options=options) as server:
        answer = server.ask("GET", "/weckd/state")
        assert (answer.status_code, answer.json()["detail"][:45]) == (
            403,
            "X-Remote-User: expected a name from the proxy",
        )
        browser.execute_cdp_cmd("Network.enable", {})
        browser.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"X-Remote-User": "Ada L."}})
        try:
            page = Page(browser, server.url, who=None)
            assert not page.find("ask").is_displayed()
            assert page.text("you-name") == "Ada L."
            assert not page.find("change").is_displayed()
            page.label(0)
        finally:
            browser.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {}})
        assert [line["who"] for line in log_of(server)] == ["Ada L."]


def test_what_cannot_be_told_is_set_aside_and_a_class_is_added_later(forks, ears, tmp_path, browser):
    options = ["--classes", *CLASSES[:3]]
    with ForkedServer(forks, ears, tmp_path / "output", settings=SMALL, options=options) as server:
        page = Page(browser, server.url)
        first = page.label(0)
        aside = page.name
        page.key("c")
        page.wait(lambda: page.name != aside and page.is_ready)
        assert page.status == f"Saved: {aside} is set aside as cannot tell."
        bad = page.name
        page.find("answers").find_elements("tag name", "button")[1].click()
        page.wait(lambda: page.name != bad and page.is_ready)
        page.wait(lambda: page.text("labeled-text") == "1 of 40 images labeled, 2 set aside")
        assert page.text("answers") == "c Cannot tell 1b Bad quality 1"
        page.key("u")
        page.wait(lambda: page.name == bad and page.is_ready)
        page.wait(lambda: page.text("labeled-text") == "1 of 40 images labeled, 1 set aside")
        assert stored(server) == {first: CLASSES[0], aside: "cannot tell"}
        # it can be told after all
        page.find("last").find_element("tag name", "summary").click()
        page.find("last-labels").find_element("tag name", "button").click()
        page.wait(lambda: page.name == aside and page.is_ready)
        pressed = "return [...document.querySelectorAll('.answer')].map((one) => one.getAttribute('aria-pressed'))"
        assert page.run(pressed) == ["true", "false"]
        page.label(1)
        assert page.status == f"Saved: {aside} is {CLASSES[1]} instead of cannot tell."
        page.find("train").click()
        page.wait(lambda: page.status == "Stage 1 accepted.")
        # nearly another name: the second time, it is meant
        page.find("adding").find_element("tag name", "summary").click()
        page.find("new-class").send_keys("normale", "\n")
        page.wait(lambda: page.status == "Added: normale, key 4.")
        page.find("new-class").send_keys(CLASSES[3], "\n")
        page.wait(lambda: page.status.startswith(f"class: expected a name unlike those that exist, got '{CLASSES[3]}'"))
        page.find("new-class").send_keys("\n")
        page.wait(lambda: page.status == f"Added: {CLASSES[3]}, key 5.")
        page.wait(lambda: [name for name, *_ in page.classes()] == [*CLASSES[:3], "normale", CLASSES[3]])
        last = page.label(4)
        assert page.status == f"Saved: {last} is {CLASSES[3]}."
        who, names = [(line["who"], line["names"]) for line in log_of(server) if line["what"] == "classes"][-1]
        assert (who, names) == ("Ada", [*CLASSES[:3], "normale", CLASSES[3]])
        assert server.ask("GET", "/info/").json()["labels"] == names
        assert list(server.ask("GET", "/info/").json()["models"]["chain"]["labels"]) == names
    # killed, and started by the same command
    with ForkedServer(forks, ears, tmp_path / "output", settings=SMALL, options=options) as server:
        page = Page(browser, server.url)
        assert [name for name, *_ in page.classes()] == [*CLASSES[:3], "normale", CLASSES[3]]
        assert stored(server) == {first: CLASSES[0], aside: CLASSES[1], last: CLASSES[3]}
        page.wait(lambda: page.classes()[0][1])
        assert int(page.classes()[4][1].rstrip("%")) <= 1
        page.label(4)
        page.find("train").click()
        page.wait(lambda: page.status == "Stage 2 accepted.")
        assert page.console() == []


def become(page, who):
    """Let another person sit down at the page."""
    page.find("change").click()
    page.wait(lambda: page.find("ask").is_displayed())
    page.say_name(who)
    page.wait(lambda: page.is_ready and page.text("you-name") == who)


def test_two_people_read_the_same_images_blind_and_settle_where_they_differ(forks, ears, tmp_path, browser):
    output_dir = tmp_path / "output"
    options = ["--read_twice", "1"]
    with ForkedServer(forks, ears, output_dir, settings=SMALL, options=options) as server:
        page = Page(browser, server.url)
        assert page.text("reason") == (
            "Why this one: read twice, so you see neither another label nor the model's opinion"
        )
        said = {page.label(number % 2): CLASSES[number % 2] for number in range(6)}
        assert not page.find("readers").is_displayed()
        become(page, "Béla")
        page = Page(browser, server.url, who=None)
        assert not page.find("last").is_displayed()  # where the labels of another person would be
        second = {}
        for number in range(6):
            assert page.name in said  # they wait for him
            assert [chosen for *_, chosen in page.classes()] == ["false"] * 4
            label = CLASSES.index(said[page.name])
            second[page.label((label + (number < 2)) % 4)] = CLASSES[(label + (number < 2)) % 4]
        assert second.keys() == said.keys()
        differ = [key for key in said if said[key] != second[key]]
        assert len(differ) == 2
    with ForkedServer(forks, ears, output_dir, settings=SMALL, options=options) as server:  # killed in between
        page = Page(browser, server.url, who="Béla")
        page.wait(lambda: page.text("labeled-text") == "4 of 40 images labeled, 2 disputed")
        order = server.state()["agreement"]["cohen"][0]
        kappa = cohen_kappa_score([said[key] for key in said], [second[key] for key in said])
        assert order["kappa"] == pytest.approx(kappa, abs=1e-12)
        assert page.text("agreement").startswith("6 images read twice, 67 % alike. Fleiss' kappa ")
        words = re.sub("[\u2068\u2069]", "", page.text("pairs"))
        assert words.startswith(f"Ada and Béla, 6: Cohen's kappa {kappa:.2f}")
        page.find("disputes").find_element("tag name", "summary").click()
        for left in (2, 1):
            assert page.text("disputes-title") == f"Disagreements to settle: {left}"
            before = page.name
            page.find("disputes-list").find_element("tag name", "button").click()
            page.wait(lambda before=before: page.name != before and page.is_ready)
            image = page.name
            reason = re.sub("[\u2068\u2069]", "", page.text("reason"))
            assert reason == f"Why this one: to be settled. Ada: {said[image]}; Béla: {second[image]}"
            page.label(CLASSES.index(said[image]))
            page.wait(lambda left=left: page.text("disputes-title") == f"Disagreements to settle: {left - 1}")
        assert stored(server) == said
        assert not page.find("disputes").is_displayed()
        page.key("u")  # one is taken back
        page.wait(lambda: page.name == image and page.is_ready)
        page.wait(lambda: page.text("disputes-title") == "Disagreements to settle: 1")
        page.label(CLASSES.index(said[image]))  # not from the list: he changes his mind
        assert stored(server) == said
        assert page.console() == []
        whats = [line["what"] for line in log_of(server)]
        assert whats == ["reading"] * 12 + ["settlement"] * 2 + ["undo", "reading"]
        kept = output_dir / "labels.json"
        content = kept.read_bytes()
    kept.unlink()
    rebuild_labels(kept)
    assert kept.read_bytes() == content


def test_a_key_that_comes_too_early_says_so_and_a_new_image_is_announced(server, browser):
    page = Page(browser, server.url)
    assert page.text("announcement") == f"New image: {page.name}"
    page.run("""const ask = window.fetch;
        window.fetch = async (address, options) => {
          const answer = await ask(address, options);
          if (address === "weckd/next") await new Promise((go) => { window.go = go; });
          return answer;
        };""")
    first = page.name
    page.key("1")
    page.wait(lambda: page.status == f"Saved: {first} is {CLASSES[0]}." and page.run("return !!window.go"))
    page.key("2")
    assert page.status == "Too early: no label was given. Wait until the image is shown."
    page.run("window.go()")
    page.wait(lambda: page.name != first and page.is_ready)
    assert page.text("announcement") == f"New image: {page.name}"
    assert page.find("announcement").get_attribute("role") == "status"
    assert stored(server) == {first: CLASSES[0]}
