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

import pytest
from label_browser import Forks, open_browser

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
