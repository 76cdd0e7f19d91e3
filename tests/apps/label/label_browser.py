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

"""A label server that starts within a second, and its page in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from label_server import OTOSCOPY, PYTHON, ROOT, LabelServer, listens

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="the packages chromium and chromium-driver are not installed"
)


class Forks:
    """A process that has imported all that a server needs, and forks one in no time."""

    def __init__(self):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "http_proxy": "http://127.0.0.1:9",
            "PYTHONPATH": str(ROOT),
        }
        self.process = subprocess.Popen(
            [PYTHON, "-W", "ignore", Path(__file__).with_name("fork_servers.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout.readline() == "ready\n"

    def start(self, log, arguments):
        """Start a server; returns its process id."""
        self.process.stdin.write(json.dumps([str(log), *map(str, arguments)]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def stop(self):
        self.process.kill()
        self.process.wait()


class ForkedServer(LabelServer):
    """A label server out of :class:`Forks`, which can be killed and started again at the same address."""

    def __init__(self, forks, studies, output_dir, *, settings=(), options=(), bundle=OTOSCOPY):
        self.forks = forks
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = Path(output_dir).with_suffix(".log")
        self.arguments = ["label", "--bundle", bundle, "--studies", studies, "--output_dir", output_dir]
        self.arguments += ["--port", self.port, *options, *settings]

    def __enter__(self):
        self.pid = self.forks.start(self.log, self.arguments)
        while Path(f"/proc/{self.pid}").exists():
            if listens(self.port):
                return self
            time.sleep(0.1)
        raise RuntimeError(self.log.read_text()[-4000:])

    def __exit__(self, *error):
        os.kill(self.pid, signal.SIGKILL)  # as the power does
        while Path(f"/proc/{self.pid}").exists():
            time.sleep(0.01)


def open_browser():
    """Return a headless Chromium, without a request of its own."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for name in ("headless=new", "disable-gpu", "disable-dev-shm-usage", "no-proxy-server", "disable-component-update"):
        options.add_argument(f"--{name}")
    options.add_argument("--disable-background-networking")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # which Chromium asks of root
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


class Page:
    """The page to label on, as somebody sees and handles it."""

    def __init__(self, driver, url, *, query="", who="Ada"):
        self.driver = driver
        self.console()
        driver.get(f"{url}/{query}")
        self.wait(lambda: self.is_ready or self.error or self.find("ask").is_displayed())
        if who is not None and not self.error and self.find("ask").is_displayed():
            self.say_name(who)
            self.wait(lambda: self.is_ready or self.error)

    def say_name(self, who):
        self.find("person").clear()
        self.find("person").send_keys(who, "\n")

    def find(self, id_):
        return self.driver.find_element("id", id_)

    def text(self, id_):
        """Return an element's text as it is, without what makes it fit for a page."""
        return self.driver.execute_script("return document.getElementById(arguments[0]).textContent", id_)

    def run(self, code, *values):
        return self.driver.execute_script(code, *values)

    def wait(self, condition, *, seconds=200):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, (self.name, self.status, self.error)
            time.sleep(0.02)
        return found

    @property
    def name(self):
        return self.text("name")

    @property
    def status(self):
        return re.sub("[\u2068\u2069]", "", self.text("status"))

    @property
    def error(self):
        """Return the line of what has failed, empty where nothing has."""
        hidden, text = self.run("const box = document.getElementById('error'); return [box.hidden, box.textContent]")
        return "" if hidden else re.sub("[\u2068\u2069]|Retry$", "", text).strip()

    @property
    def is_ready(self):
        """Return whether an image is shown and can be labeled."""
        return self.run("""return !document.getElementById("frame").hidden
            && document.querySelector(".class")?.getAttribute("aria-disabled") === "false" """)

    def key(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def chord(self, held, key):
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).key_down(held).send_keys(key).key_up(held).perform()

    def click_class(self, number):
        self.driver.find_elements("css selector", ".class")[number].click()

    def label(self, number, *, click=False):
        """Give the image a class, and wait for the next one; returns its id."""
        before = self.name
        if click:
            self.click_class(number)
        else:
            self.key(str(number + 1))
        self.wait(lambda: self.name != before and (self.is_ready or self.name == "No image left"))
        return before

    def classes(self):
        """Return name, probability, count and whether it is chosen, of each class."""
        return self.run("""return [...document.querySelectorAll(".class")].map((button) => [
            button.querySelector(".what").textContent, button.querySelector(".probability").textContent,
            button.querySelector(".count").textContent, button.getAttribute("aria-pressed")])""")

    def table(self):
        """Return the rows of the stages, as lists of text."""
        return self.run("""return [...document.querySelectorAll("#rows tr")].map(
            (row) => [...row.children].map((cell) => cell.textContent))""")

    def pixels(self):
        """Return what is drawn, (rows, columns, 3)."""
        width, height, values = self.run("""const canvas = document.getElementById("picture");
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return [canvas.width, canvas.height, [...data]]""")
        return np.array(values, dtype=np.uint8).reshape(height, width, 4)[..., :3]

    def console(self):
        """Return what the browser has complained of since the last call, but for answers that say no."""
        messages = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [text for text in messages if "Failed to load resource" not in text]
