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

import os

import pytest
from label_browser import ForkedServer, Forks, open_browser
from label_server import LONG, SMALL
from PIL import Image

# it imports MONAI Label, which is in another environment
collect_ignore = ["fork_servers.py"]


@pytest.fixture(scope="session")
def forks():
    forks = Forks()
    yield forks
    forks.stop()


@pytest.fixture(scope="session")
def browser():
    driver = open_browser()
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def fresh(request):
    """Give each test a window of its usual size."""
    if "browser" in request.fixturenames:
        request.getfixturevalue("browser").set_window_size(1280, 800)


@pytest.fixture(scope="session")
def studies(copy_ears, tmp_path_factory):
    """Return a folder of images, of which some have long names and old or late times."""
    folder = copy_ears(tmp_path_factory.mktemp("ears") / "images", 40)
    for number, name in enumerate(LONG):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(folder / "normal" / name)
    os.utime(folder / "normal" / LONG[0], (0, 0))
    os.utime(folder / "normal" / LONG[1], (-(10**9), -(10**9)))
    os.utime(folder / "normal" / LONG[2], (2**33, 2**33))
    with (folder / "manifest.csv").open("a", encoding="utf-8") as manifest:
        manifest.writelines(f"normal/{name},normal,{name[0]}{number}\n" for number, name in enumerate(LONG))
    return folder


@pytest.fixture(scope="session")
def server(forks, studies, tmp_path_factory):
    """Return a server with one stage, which several files of tests share."""
    with ForkedServer(forks, studies, tmp_path_factory.mktemp("hostile") / "output", settings=SMALL) as server:
        for key in sorted(path.relative_to(studies).as_posix() for path in studies.rglob("ear_*.png"))[::3]:
            assert server.ask("PUT", f"/weckd/label/{key}", json={"label": key.split("/")[0]}).status_code == 200
        assert server.ask("POST", "/weckd/train").status_code == 202
        assert server.wait_for_stage()["training"]["error"] is None
        yield server


@pytest.fixture
def image(server):
    """Return the id of an image without a label."""
    return server.ask("GET", "/weckd/next").json()["id"]
