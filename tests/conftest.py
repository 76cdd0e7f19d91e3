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

import shutil
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from report_texts import sendable

# a loaded machine is no reason to fail. A tree has the same examples each time; `make test-slow` searches for new ones
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("search", settings.get_profile("default"), derandomize=False)
settings.load_profile("default")

# what computes: the tests there compare numbers, which another processor rounds otherwise
TESTS = Path(__file__).resolve().parent
PORTABLE = {"compare", "data", "engines", "fl", "handlers", "losses", "networks", "predict", "selection", "transforms"}
PORTABLE |= {"costs", "metrics", "test_inferers.py", "test_pretrained.py"}
PORTABLE |= {"test_all_bundles.py", "test_bundle_files.py", "test_federated.py", "test_multi_gpu.py", "test_solved.py"}

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that compare numbers by their folder or file."""
    for item in items:
        if item.path.is_relative_to(TESTS) and PORTABLE & set(item.path.relative_to(TESTS).parts):
            item.add_marker("portable")


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Let a worker send the report of a test that fails over any name of a file."""
    return sendable((yield))


@pytest.fixture(scope="session", autouse=True)
def key_of_pseudonyms(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    """Keep the user's own key out of the tests, and make names of patients the same in each run."""
    path = tmp_path_factory.mktemp("pseudonyms") / "pseudonym.key"
    path.write_text(32 * "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONAI_WECKD_PSEUDONYM_KEY", str(path))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_thread_at_exit() -> Generator[None, None, None]:
    """Wait for what labeling sessions do in the background: Python aborts if it ends while PyTorch computes there."""
    yield
    for thread in threading.enumerate():
        if thread.name in {"list", "look", "learn", "order"}:
            thread.join(timeout=60)


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Return a function from a data set's name to its folder; the test skips where the folder is absent."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"the real data set {name!r} is not beside this checkout ({path})")
        return path

    return find


@pytest.fixture(scope="session")
def copy_ears(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, int], Path]:
    """Return a function that gives a folder the first images of one otoscopy phantom, which takes seconds to make."""
    from monai_weckd.data.phantoms import make_phantom  # here, since not every test needs MONAI

    source = make_phantom("otoscopy", tmp_path_factory.mktemp("ears") / "phantom", items=96)
    lines = (source / "manifest.csv").read_text(encoding="utf-8").splitlines(keepends=True)

    def copy(folder: Path, items: int) -> Path:
        for name in (line.partition(",")[0] for line in lines[1 : items + 1]):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, folder / name)
        shutil.copy(source / "SOURCE.md", folder)
        (folder / "manifest.csv").write_text("".join(lines[: items + 1]), encoding="utf-8")
        return folder

    return copy


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass by the work of a timed network alone, however busy this machine is."""
    from timed_network import Timed  # here, since not every test needs torch

    monkeypatch.setattr(Timed, "now", 0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: Timed.now)
