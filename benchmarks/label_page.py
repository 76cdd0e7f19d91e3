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


"""A user of the label server's page in a browser: press keys, train, and test on groups that it never saw."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.label_user import UserAtTheScreen, repeat, user_arguments

__all__ = ["UserInABrowser"]

ROOT = Path(__file__).resolve().parents[1]


class UserInABrowser(UserAtTheScreen):
    """Label the images that the page shows, and start training, both by keys.

    Args:
        url: the server's address.
        truth: class of each image by its id.
        page: the page, open in a browser.

    """

    def __init__(self, url: str, truth: Mapping[str, str], page: Any) -> None:
        super().__init__(url, truth)
        self.page = page
        self.classes = [name for name, *_ in page.classes()]

    def label(self, count: int) -> None:
        """Label so many images, each when it is shown."""
        for _ in range(count):
            began = time.perf_counter()
            self.page.label(self.classes.index(self.truth[self.page.name]))
            self.waits.append(time.perf_counter() - began)

    def train(self) -> tuple[dict[str, Any], float]:
        """Train a stage; returns what it did, and the seconds until the page said so."""
        began = time.perf_counter()
        rows = len(self.page.table())
        self.page.key("t")
        self.page.wait(lambda: len(self.page.table()) > rows or self.page.error, seconds=600)
        if self.page.error:
            raise RuntimeError(self.page.error)
        return self.ask("GET", "/weckd/state")["stages"][-1], time.perf_counter() - began


def main() -> None:
    """Print a line for each stage of each seed, and the means."""
    args = user_arguments(__doc__).parse_args()
    sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "apps" / "label")]
    from label_browser import Page, open_browser

    driver = open_browser()
    try:
        repeat(args, lambda url, truth: UserInABrowser(url, truth, Page(driver, url)))
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
