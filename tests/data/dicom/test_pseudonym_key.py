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
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from monai_weckd.data.dicom import pseudonym_key as module
from monai_weckd.data.dicom.pseudonym_key import VARIABLE, pseudonym_key


@pytest.fixture(autouse=True)
def a_new_user(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    module._key_in.cache_clear()


@pytest.mark.parametrize(
    ("variable", "value", "place"),
    [
        (None, "", "home/.config/monai_weckd/pseudonym.key"),
        ("XDG_CONFIG_HOME", "conf", "conf/monai_weckd/pseudonym.key"),
        (VARIABLE, "keys/own.key", "keys/own.key"),
    ],
)
def test_a_key_is_made_on_first_use_for_its_user_alone(monkeypatch, tmp_path, caplog, variable, value, place):
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path / value))
    key = pseudonym_key()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / place]
    assert stat.S_IMODE(os.stat(tmp_path / place).st_mode) == 0o600
    assert len(key) == 64
    assert key.decode() not in caplog.text
    assert f"{tmp_path / place}: made the key of patients' pseudonyms" in caplog.text
    module._key_in.cache_clear()
    assert pseudonym_key() == key
    assert len(caplog.records) == 1


def test_two_users_have_two_keys(monkeypatch, tmp_path):
    keys = []
    for name in "ab":
        monkeypatch.setenv("HOME", str(tmp_path / name))
        keys.append(pseudonym_key())
    assert keys[0] != keys[1]


def test_processes_that_begin_together_have_one_key(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(module._make, [tmp_path / "pseudonym.key"] * 8))
    assert [path.name for path in tmp_path.iterdir()] == ["pseudonym.key"]
    assert len((tmp_path / "pseudonym.key").read_text()) == 65


@pytest.mark.parametrize("text", ["", "short", " \n" * 40])
def test_a_key_that_can_be_guessed_is_refused(monkeypatch, tmp_path, text):
    (tmp_path / "key").write_text(text)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "key"))
    with pytest.raises(ValueError, match=r"MONAI_WECKD_PSEUDONYM_KEY: expected a key of at least 32 .* in .*key\."):
        pseudonym_key()


def test_no_place_for_a_key_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "key", tmp_path):
        monkeypatch.setenv(VARIABLE, str(place))
        with pytest.raises(ValueError, match=r"^MONAI_WECKD_PSEUDONYM_KEY: expected a file with a key, or a place"):
            pseudonym_key()
