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

from monai_weckd.annotation.folders import FolderWatch

LONG_AGO = 10**18


@pytest.fixture
def watch(tmp_path):
    """Return a watch of a folder that nobody has changed for long."""
    for name in ("a/b", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "b" / "ear.png").touch()
    (tmp_path / "manifest.csv").touch()
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    watch = FolderWatch(tmp_path)
    watch.look()
    assert not watch.has_changed
    return watch


@pytest.mark.parametrize("change", ["add", "remove", "rename", "folder", "table", "gone"])
def test_what_changes_the_images_or_their_groups_is_noticed(watch, change):
    inner = watch.root / "a" / "b"
    {
        "add": lambda: (inner / "nose.png").touch(),
        "remove": lambda: (inner / "ear.png").unlink(),
        "rename": lambda: (inner / "ear.png").rename(inner / "nose.png"),
        "folder": lambda: (watch.root / "c").mkdir(),
        "table": lambda: (watch.root / "manifest.csv").write_text("file,label,group\n"),
        "gone": lambda: inner.rename(watch.root.parent / "elsewhere"),
    }[change]()
    assert watch.has_changed


def test_what_is_in_a_hidden_folder_does_not_matter(watch):
    (watch.root / ".hidden" / "labels.log").touch()
    assert not watch.has_changed


def test_a_change_just_before_the_look_may_hide_another(watch):
    os.utime(watch.root / "a")
    watch.look()
    assert watch.has_changed
