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

import ast
import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

import monai.apps
import monai.bundle
import monai.fl.client
import monai.handlers  # noqa: F401
import pytest

import monai_weckd
from monai_weckd.apps.label.compat import register_missing

# modules that only name things: none of their lines can go wrong by itself
WITHOUT_TESTS = {
    "annotation/status.py": "errors, and a record",
    "engines/events.py": "events",
    "utils/enums.py": "keys of batches and outputs",
}


def names(package):
    """Return the classes and functions that the loaded modules of a package define."""
    found = {}
    for module in [m for name, m in sorted(sys.modules.items()) if name == package or name.startswith(f"{package}.")]:
        for name, value in inspect.getmembers(module, lambda v: inspect.isclass(v) or inspect.isfunction(v)):
            if (value.__module__ or "").split(".")[0] == package:
                found[name] = value
    return found


@pytest.fixture(scope="module", autouse=True)
def what_monai_label_lacks():
    """Let MONAI Label be imported, and leave nothing behind for tests of other modules."""
    loaded = set(sys.modules)
    register_missing()
    yield
    for name in {"pydicom_seg", "torchvision", "torchvision.utils"} - loaded:
        sys.modules.pop(name, None)


def modules():
    """Yield all modules but those that need MONAI Label or NVIDIA FLARE, where it is not installed."""
    for module in pkgutil.walk_packages(monai_weckd.__path__, "monai_weckd."):
        try:
            yield importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith(("monailabel", "nvflare")):
                raise


def test_no_name_collides_with_a_name_of_monai():
    assert len(list(modules())) > 100
    ours, theirs = names("monai_weckd"), names("monai")
    assert {"ChainDistillationTrainer", "DistillationLoss"} <= set(ours)
    assert {"SupervisedTrainer", "CheckpointSaver"} <= set(theirs)
    assert not set(ours) & set(theirs)


def test_public_names_exist():
    for module in modules():
        assert all(hasattr(module, name) for name in getattr(module, "__all__", ())), module.__name__


def defines(path):
    """Return whether a module has a function or a class of its own."""
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.parse(path.read_text("utf-8")).body)


def test_each_module_has_tests_of_its_name():
    package, tests = Path(monai_weckd.__file__).parent, Path(__file__).parent
    modules = [path.relative_to(package) for path in package.rglob("[!_]*.py") if defines(path)]
    assert len(modules) > 100
    missing = [path.as_posix() for path in modules if not (tests / path.with_name(f"test_{path.name}")).is_file()]
    assert sorted(missing) == sorted(WITHOUT_TESTS), "write tests/<package>/test_<module>.py"
