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

"""What somebody gets who installs the wheel, and has no checkout."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from monai_weckd import __version__

ROOT = Path(__file__).resolve().parents[1]
NAME = "otoscopy_chain_classification"
INFO = f"monai_weckd-{__version__}.dist-info"
LEFTOVERS = ("models/model.pt", "output/report.html", "networks/__pycache__/net.pyc", "configs/__pycache__/net.pyc")
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
# one stage of one epoch
SMALL = {"num_stages": 1, "label_fraction": 0.3, "spatial_size": "[64, 64]", "network_def#shrink": "[1]"}


def run(*command, cwd):
    """Run a command outside of the checkout, and return what it writes to standard output."""
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, cwd=cwd)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-3000:]}{done.stderr[-6000:]}"
    return done.stdout


def members(archive):
    """Return the names of the files in a wheel or source archive, without the archive's own folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.namelist()
    with tarfile.open(archive) as source:
        return [entry.name.split("/", 1)[1] for entry in source if entry.isfile()]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a copy of what is packed, so that nothing is written into the checkout, and the files it must hold."""
    folder = tmp_path_factory.mktemp("source")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    ignore = shutil.ignore_patterns("__pycache__", "models", "output")
    for name in ("monai_weckd", "bundles"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    files = {path.relative_to(folder).as_posix() for path in folder.glob("*/**/*") if path.is_file()}
    for name in [*(f"bundles/{NAME}/{leftover}" for leftover in LEFTOVERS), "tests/plan/test_planner.py"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder, files - {"bundles/build.py"}


@pytest.fixture(scope="module")
def archives(source, tmp_path_factory):
    """Return the source archive, the wheel that is built from it, and the wheel that a checkout gives."""
    both, direct = tmp_path_factory.mktemp("both"), tmp_path_factory.mktemp("direct")
    build = [sys.executable, "-m", "build", "--no-isolation"]
    run(*build, "--outdir", both, source[0], cwd=both)
    run(*build, "--wheel", "--outdir", direct, source[0], cwd=direct)
    return next(both.glob("*.tar.gz")), next(both.glob("*.whl")), next(direct.glob("*.whl"))


def test_the_wheel_holds_package_and_bundles_and_nothing_else(source, archives):
    names = members(archives[1])
    package = {name for name in names if not name.startswith(INFO)}
    assert package == {name if name.startswith("monai_weckd/") else f"monai_weckd/{name}" for name in source[1]}
    assert {
        "monai_weckd/py.typed",
        "monai_weckd/apps/label/page/index.html",
        "monai_weckd/apps/label/page/page.js",
        "monai_weckd/visualize/report.html.jinja",
        "monai_weckd/visualize/style.css.jinja",
        f"monai_weckd/bundles/{NAME}/configs/train.json",
        f"monai_weckd/bundles/{NAME}/networks/efficientnet_lite.py",
    } <= package
    assert sorted(members(archives[2])) == sorted(names)


def test_the_source_archive_builds_without_the_checkout(source, archives):
    names = set(members(archives[0]))
    assert source[1] | {"LICENSE", "CITATION.cff", "README.md", "setup.py", "setup.cfg", "pyproject.toml"} <= names
    assert {name.split("/")[0] for name in names if "/" in name} == {"monai_weckd", "bundles", "monai_weckd.egg-info"}
    assert not [name for name in names if name.endswith(LEFTOVERS)]


def test_the_metadata_names_version_and_license(archives):
    with zipfile.ZipFile(archives[1]) as wheel:
        metadata = Parser().parsestr(wheel.read(f"{INFO}/METADATA").decode())
        assert wheel.read(f"{INFO}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        citation = wheel.read(f"{INFO}/licenses/CITATION.cff").decode()
    assert metadata["Version"] == __version__
    assert f"dist/{archives[1].name}[report]" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation
    assert metadata.get_all("License-File") == ["LICENSE", "CITATION.cff"]


def make_venv(folder):
    """Make a virtual environment, and return its Python and the folder of its packages."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    return python, Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())


def install(python, *arguments, cwd):
    run(sys.executable, "-m", "pip", "--python", python, "install", *arguments, cwd=cwd)


def use(python, packages, folder):
    """Do what the README says, with an environment's Python, in an empty folder."""
    place = run(python, "-c", "import monai_weckd; print(monai_weckd.__file__, monai_weckd.__version__)", cwd=folder)
    assert place.split() == [str(packages / "monai_weckd" / "__init__.py"), __version__]
    command = [python, "-W", "ignore", "-m", "monai_weckd"]
    assert run(*command, "--version", cwd=folder) == f"monai_weckd {__version__}\n"
    run(*command, "phantom", "--kind", "otoscopy", "--out", "path/to/images", "--items", 48, cwd=folder)
    following = run(*command, "bundle", "--name", NAME, "--to", "my_bundles", cwd=folder).splitlines()[-1]
    assert not list((folder / "my_bundles").rglob("__pycache__"))
    words = shlex.split(following)
    assert words[0] == "python"
    settings = [word for key, value in SMALL.items() for word in (f"--{key}", value)]
    run(python, "-W", "ignore", *words[1:], *settings, cwd=folder)
    assert {"report.html", "model.pt"} <= {path.name for path in (folder / "path" / "to" / "output").iterdir()}


def test_the_wheel_works_outside_of_the_checkout(archives, tmp_path):
    python, packages = make_venv(tmp_path / "venv")
    install(python, "--no-index", "--no-deps", archives[1], cwd=tmp_path)
    # the packages of this environment, without what its own .pth files add: an editable install of the checkout
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(dependencies)))
    folder = tmp_path / "empty"
    folder.mkdir()
    use(python, packages, folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_brings_what_it_needs(archives, tmp_path):
    probe = [sys.executable, "-m", "pip", "--retries", "0", "download", "--no-deps", "--dest", tmp_path, "filelock"]
    if subprocess.run(probe, capture_output=True, env=ENVIRONMENT).returncode:
        pytest.skip("pip reaches no package index")
    python, packages = make_venv(tmp_path / "venv")
    folder = tmp_path / "empty"
    folder.mkdir()
    try:
        install(python, "--constraint", ROOT / "constraints.txt", f"{archives[1]}[report]", cwd=tmp_path)
        run(sys.executable, "-m", "pip", "--python", python, "check", cwd=tmp_path)
        use(python, packages, folder)
    finally:
        # it is large, and pytest keeps the folders of its last runs
        shutil.rmtree(tmp_path / "venv")
