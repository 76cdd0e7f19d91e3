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

import re
import socket
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from filelock import FileLock

from monai_weckd.apps.label.guard import Access
from monai_weckd.cli.label import _access
from monai_weckd.cli.main import main

OTOSCOPY = Path(__file__).resolve().parents[2] / "bundles" / "otoscopy_chain_classification"


@pytest.fixture
def no_monailabel(monkeypatch):
    """Hide MONAI Label, of which another test may have imported parts."""
    for name in [name for name in sys.modules if name.startswith("monailabel.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "monailabel", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "host: expected 127.0.0.1 without a password, got '0.0.0.0', which others can reach."),
        (["--password_file", "short"], "password_file: expected 8 characters or more, got 3. Choose a longer one."),
        (["--studies", "https://pacs/dicom"], "output_dir: expected a folder for images from a DICOMweb service, got"),
        (
            ["--studies", "https://pacs/dicom", "--output_dir", "out"],
            "filter: expected at least one for a DICOMweb ser",
        ),
        (
            ["--studies", "https://pacs/dicom", "--output_dir", "out", "--filter", "Modalty=MR"],
            "filter: expected a DICOM keyword, got 'Modalty'. Did you mean 'Modality'?",
        ),
        (["--filter", "Modality=MR"], "filter: expected none for a folder, got ['Modality=MR']."),
        (["--studies", "none"], "studies: expected a folder of images, got 'none'. Correct the path."),
        (["--bundle", "none"], "bundle: expected configs/train.json in 'none', got none. Pass a bundle."),
        (["--val_fraction", "1"], "val_fraction: expected a fraction in [0, 1), got 1.0. Pass e.g. 0.25."),
        (["--worklist", "none.csv"], "worklist: expected a CSV of `predict`, got no none.csv. Correct the path."),
        (
            ["--labels", "none.csv"],
            "none.csv: expected a file or folder to use, got no such file or directory. Correct",
        ),
        (["--labels", "images"], "images: expected a file or folder to use, got is a directory. Correct the path."),
        (
            ["--password_file", "none"],
            "none: expected a file or folder to use, got no such file or directory. Correct the ",
        ),
        (["--output_dir", "short"], "short: expected a file or folder to use, got file exists. Correct the path."),
        (["--studies", "empty"], "images: expected PNG, JPEG, TIFF, BMP, NIfTI or DICOM files below "),
        (["--classes", "ill", " "], "classes: expected names, got ' '. Name the classes to distinguish."),
        (["--user_header", "X User"], "user_header: expected the name of an HTTP header, got 'X User'. Pass e.g. X-Re"),
        (["--port", "65536"], "port: expected a number from 1 to 65535, got 65536. Pass e.g. 8000."),
        (["--port", "0"], "port: expected a number from 1 to 65535, got 0. Pass e.g. 8000."),
        (["--worklist", "list.csv"], "worklist: expected images of images, got none of 1. Pass the folder that was"),
        (["--set", "sed=1"], "set: expected a key of"),
        ([], "monailabel: expected to be installed, got No module named 'monailabel"),
    ],
)
def test_errors_are_one_line_without_traceback(
    copy_ears, capsys, monkeypatch, no_monailabel, tmp_path, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("abc\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.csv").write_text("file,predicted,reason\r\nother.png,,below min_confidence\r\n")
    copy_ears(tmp_path / "images", 12)
    command = ["label", "--bundle", str(OTOSCOPY), "--studies", "images", "--port", free_port(), *options]
    assert main(command) == 1
    assert f"error: {message}" in capsys.readouterr().err


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_a_port_that_is_taken_is_refused_before_its_address_is_printed(capsys, tmp_path):
    (tmp_path / "images").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        command = ["label", "--bundle", str(OTOSCOPY), "--studies", str(tmp_path / "images"), "--port", port]
        assert main(command) == 1
    told = capsys.readouterr()
    assert re.fullmatch(rf"error: port: expected a free one of 127.0.0.1, got {port} \(.*\). Pass another.\n", told.err)
    assert told.out == ""


def test_refuses_a_second_server_on_the_same_labels(copy_ears, capsys, no_monailabel, tmp_path):
    copy_ears(tmp_path / "images", 12)
    (tmp_path / "images" / "notes.txt").touch()
    output_dir = tmp_path / "output"
    output_dir.mkdir()
    command = ["label", "--bundle", str(OTOSCOPY), "--studies", str(tmp_path / "images")]
    command += ["--output_dir", str(output_dir), "--port", free_port()]
    with FileLock(output_dir / "server.lock"):
        assert main(command) == 1
    assert f"error: output_dir: expected one server at a time on {output_dir}, got another." in capsys.readouterr().err
    assert main(command) == 1  # the first one has ended
    told = capsys.readouterr()
    assert "error: monailabel: expected to be installed" in told.err
    assert "files passed over: " in told.out
    assert ".txt 1" in told.out


def access_of(path, *, user_header=None):
    return _access(Namespace(password_file=path, host="0.0.0.0", user_header=user_header))


@pytest.mark.parametrize(
    "content", ["Ada:päss:word 1\nBéla: secret 2 \n", "\ufeff\r\n Ada :päss:word 1\r\nBéla: secret 2"]
)
def test_a_password_file_names_people(tmp_path, content):
    path = tmp_path / "passwords"
    path.write_bytes(content.encode())
    assert access_of(path) == Access(people={"Ada": "päss:word 1", "Béla": " secret 2"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Ada:secret 1\nsecret 22", "password_file: expected NAME:PASSWORD in line 2, got no colon. Add the name."),
        ("Ada:secret 1\nAda:secret 2", "password_file: expected each name once, got 'Ada' twice. Remove a line."),
        ("Ada:short", "password_file: expected 8 characters or more, got 5. Choose a longer one."),
        (" :secret 1", "password_file: line 1: expected a name of 1 to 64 characters that can be seen, got ''."),
        ("", "password_file: expected 8 characters or more, got 0. Choose a longer one."),
    ],
)
def test_a_wrong_password_file_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "passwords"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        access_of(path)


def test_names_come_from_one_place(tmp_path):
    path = tmp_path / "passwords"
    path.write_text("Ada:secret 1")
    with pytest.raises(ValueError, match=r"^user_header: expected one source of names, got 'X-User' beside a password"):
        access_of(path, user_header="X-User")
    path.write_text("secret 1")
    assert access_of(path, user_header="X-User") == Access("secret 1", user_header="X-User")


@pytest.mark.parametrize("content", ["päss word 1", "\ufeffpäss word 1", "päss word 1\n", "\ufeffpäss word 1\r\n"])
def test_a_password_is_read_as_it_was_typed(tmp_path, content):
    path = tmp_path / "password"
    path.write_bytes(content.encode())
    path.chmod(0o600)
    assert access_of(path) == Access("päss word 1")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_a_password_in_another_encoding_is_refused_in_one_line(tmp_path, encoding):
    path = tmp_path / "password"
    path.write_bytes("päss word 1".encode(encoding))
    with pytest.raises(ValueError, match=r"^password_file: expected text in UTF-8, got other bytes in [^\n]*$"):
        access_of(path)


@pytest.mark.parametrize(
    ("mode", "said"), [(0o644, True), (0o640, True), (0o604, True), (0o666, True), (0o600, False), (0o400, False)]
)
def test_a_password_that_others_can_read_is_remarked(tmp_path, capsys, mode, said):
    path = tmp_path / "password"
    path.write_text("password")
    path.chmod(mode)
    access_of(path)
    out = capsys.readouterr().out
    assert (f"got mode {mode:04o}. Run chmod 600 {path}" in out) == said
    assert bool(out) == said
