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

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from bundle_runs import OTOSCOPY
from test_bundle import SMALL
from test_chain_party import SMALL as SMALL_CHAIN

from monai_weckd.__main__ import main
from monai_weckd.data import load_datalist
from monai_weckd.fl import SiteBundle
from monai_weckd.fl.average_party import AverageParty
from monai_weckd.fl.exact_rounds import SiteAnswer, solve_over_sites
from monai_weckd.fl.messages import unpack

pytest.importorskip("nvflare", reason="federations want the extra 'flare'")

# the simulator starts a process for each site, which imports MONAI: seconds each on an idle machine


def arguments(root, sites, *options, changes=SMALL):
    """Return the command of a federation in the simulator."""
    changes = [f"--set={key}={value}" for key, value in changes.items()]
    where = {"dataset_dir": root / "{site}", "output_dir": root / "out" / "{site}", "job_dir": root / "job"}
    folders = [f"--{name}={path}" for name, path in where.items()]
    command = ["federate", f"--bundle={OTOSCOPY}", f"--sites={sites}", "--simulate", "--hours=0.1"]
    return [*command, *folders, *changes, *options]


def federate(*args, **changes):
    """Run a federation in the simulator, and return the exit code."""
    return main(arguments(*args, **changes))


@pytest.fixture
def root(copy_ears, tmp_path):
    """A folder with the images of three sites."""
    for site, items in {"north": 24, "south": 40, "west": 48}.items():
        (tmp_path / site).mkdir()
        copy_ears(tmp_path / site, items)
    return tmp_path


@pytest.mark.parametrize("mode", ["exact", "chain", "average"])
def test_a_job_names_the_sites_and_how_often_they_ask(mode, tmp_path):
    folders = ("--bundle=/bundle", "--dataset_dir=/data", "--output_dir=/output", f"--job_dir={tmp_path}")
    assert main(["federate", "--sites=north, south", "--hours=2", f"--mode={mode}", *folders]) == 0
    config = json.loads((tmp_path / "federation" / "app" / "config" / "config_fed_server.json").read_text())
    assert config["server"] == {"task_request_interval": 0.5}
    (workflow,) = config["workflows"]
    assert workflow["path"] == f"monai_weckd.fl.flare.{mode.capitalize()}Controller"
    given = workflow["args"]
    assert (given["sites"], given["hours"], given["on_missing"]) == (["north", "south"], 2.0, "stop")
    about = json.loads((tmp_path / "federation" / "meta.json").read_text())
    assert (about["min_clients"], about["mandatory_clients"]) == (2, ["north", "south"])
    assert main(["federate", "--sites=north,south", "--on_missing=skip", f"--mode={mode}", *folders]) == 0
    about = json.loads((tmp_path / "federation" / "meta.json").read_text())
    assert (about["min_clients"], about.get("mandatory_clients", [])) == (1, [])


def test_overlays_of_the_user_are_found_wherever_the_job_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text("{}")
    folders = ("--bundle=/bundle", "--dataset_dir=/data", "--output_dir=/output", "--job_dir=job")
    assert main(["federate", "--sites=a,b", *folders, "--config_file", "scratch.json", "mine.json"]) == 0
    config = json.loads((tmp_path / "job" / "federation" / "app" / "config" / "config_fed_client.json").read_text())
    packed = config["executors"][0]["executor"]["args"]["task_script_args"]
    assert unpack(packed, "a")["overlays"] == ["scratch.json", str(tmp_path / "mine.json")]


def test_sites_get_the_head_that_their_sums_give(root):
    assert federate(root, "north,south") == 0
    states = [torch.load(path, weights_only=True) for path in sorted(root.glob("out/*/model.pt"))]
    assert len(states) == 2
    bundle = SiteBundle(OTOSCOPY, changes=SMALL)
    sites = {site: bundle.site(root / site) for site in ("north", "south")}
    head, _ = solve_over_sites(
        lambda task, totals, names: {one: SiteAnswer(getattr(sites[one], task)(*totals.values())) for one in names},
        list(sites),
    )
    for state in states:
        np.testing.assert_allclose(state["classifier.weight"], head.weight.float(), rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_a_site_that_fails_is_named_or_left_out(root, capsys):
    broken = load_datalist(root / "south").items[0]["image"]
    with open(broken, "wb") as file:
        file.write(b"not an image")
    assert federate(root, "north,south,west") == 1
    assert "got none of south: ValueError, see its log" in capsys.readouterr().err
    assert not list(root.glob("out/*/model.pt"))
    assert federate(root, "north,south,west", "--on_missing=skip") == 0
    assert sorted(path.parent.name for path in root.glob("out/*/model.pt")) == ["north", "west"]


def test_a_chain_goes_from_site_to_site(root):
    chain = ("--mode=chain", "--teachers=all", "--exact_head", "--config_file=scratch.json")
    assert federate(root, "west,north,south", *chain, changes=SMALL_CHAIN) == 0
    models = sorted(root.glob("out/*/model.pt"))
    assert [path.parent.name for path in models] == ["north", "south", "west"]
    assert len({path.read_bytes() for path in models}) == 1
    chain = json.loads(models[0].with_name("chain.json").read_text())
    assert [stage.get("site") for stage in chain["stages"]] == ["west", "north", "south", None]
    assert chain["stages"][-1]["labeled"] == sum(stage["labeled"] for stage in chain["stages"][:-1])  # the joint head
    assert not list((root / "job" / "server").iterdir())  # what the server has kept


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_site_that_dies_in_its_stage_is_left_out(root):
    (root / "north" / "dies").touch()
    system = "monai_weckd.bundle.output.os"
    dies = f"$@dataset_dir and {system}.path.exists(@dataset_dir + '/dies') and {system}._exit(9)"
    (root / "dies.json").write_text(json.dumps({"+initialize": [dies]}))
    overlays = ("--config_file", "scratch.json", str(root / "dies.json"))
    options = ("--mode=chain", "--on_missing=skip", "--hours=0.05")
    assert federate(root, "west,north,south", *options, *overlays, changes=SMALL_CHAIN) == 0
    assert sorted(path.parent.name for path in root.glob("out/*/model.pt")) == ["south", "west"]
    chain = json.loads((root / "out" / "south" / "chain.json").read_text())
    assert [stage["site"] for stage in chain["stages"]] == ["west", "south"]
    log = root / "job" / "simulation" / "federation" / "server" / "log.txt"
    assert "left out north: no answer in time" in log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_was_killed_goes_on(root):
    psutil = pytest.importorskip("psutil", reason="to kill the sites with their server")
    command = arguments(root, "west,north,south", "--mode=chain", "--config_file=scratch.json", changes=SMALL_CHAIN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, "-m", "monai_weckd", *command], env=environment)
    kept = root / "job" / "server"
    while process.poll() is None and not [path for path in kept.glob("*.pt") if torch.load(path)["done"]]:
        time.sleep(0.2)
    for part in [*psutil.Process(process.pid).children(recursive=True), process]:
        part.kill()
    process.wait()
    assert not list(root.glob("out/*/model.pt"))
    first = (root / "out" / "west" / "stage_1" / "plan.json").stat().st_mtime_ns
    assert main(command) == 0
    assert (root / "out" / "west" / "stage_1" / "plan.json").stat().st_mtime_ns == first
    assert len(list(root.glob("out/*/model.pt"))) == 3
    assert not list(kept.iterdir())


@pytest.mark.slow
def test_weights_of_monai_clients_are_averaged(root):
    changes = {**SMALL_CHAIN, "max_epochs": 2, "val_fraction": 0}
    options = ("--mode=average", "--rounds=2", "--exact_head", "--config_file=scratch.json")
    assert federate(root, "north,south", *options, changes=changes) == 0
    models = sorted(root.glob("out/*/model.pt"))
    assert [path.parent.name for path in models] == ["north", "south"]
    assert models[0].read_bytes() == models[1].read_bytes()
    settings = {"bundle": str(OTOSCOPY), "classes": None, "overlays": ["scratch.json"], "changes": changes, "rounds": 2}
    parties = [
        AverageParty({**settings, "dataset_dir": str(root / site), "output_dir": str(root / "here" / site)})
        for site in ("north", "south")
    ]
    weights = {}
    for _ in range(2):
        answers = [party.answer(weights) for party in parties]
        weights = {name: sum(one.weights[name].double() for one in answers) / 2 for name in answers[0].weights}
    state = torch.load(models[0], weights_only=True)
    for name, value in state.items():
        if name.startswith("fc."):  # the joint head
            continue
        np.testing.assert_allclose(value, weights[name].to(value.dtype), rtol=1e-4, atol=1e-6)


FAULTY = ("early", "late", "dies", "nan", "other", "single", "blank", "last")
LATE = {"late": "no answer in time", "dies": "no answer in time"}
FAILED, WRAPPED = "ValueError, see its log", "RuntimeError, see its log"  # by MONAI's client
NAN = "weights that are not finite"
MODES = {
    "exact": (SMALL, {**LATE, "nan": "sums: expected finite numbers from nan", "other": FAILED}),
    "chain": (SMALL_CHAIN, {**LATE, "nan": NAN, "other": FAILED, "blank": FAILED}),
    "average": (SMALL_CHAIN, {**LATE, "nan": NAN, "other": WRAPPED, "blank": WRAPPED}),
}
OPTIONS = {"exact": (), "chain": ("--mode=chain",), "average": ("--mode=average", "--rounds=1")}


def relabel(folder, change):
    """Change the labels of a site's manifest, whose images are for training then; None leaves one out."""
    header, *rows = [line.split(",") for line in (folder / "manifest.csv").read_text().splitlines()]
    changed = [[row[0], label, row[2]] for row in rows if (label := change(row[1])) is not None]
    (folder / "manifest.csv").write_text("".join(",".join(row) + "\n" for row in [header[:3], *changed]))


@pytest.fixture
def faulty(copy_ears, tmp_path, monkeypatch):
    """A folder with the images of sites that fail as their names say, between two that do not."""
    changes = {
        "other": lambda label: "unheard-of",
        "single": lambda label: label if label == "normal" else None,
        "blank": lambda label: "",
    }
    for site in FAULTY:
        relabel(copy_ears(tmp_path / site, 24), changes.get(site, str))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", MODES)
def test_every_fault_is_named_and_costs_no_other_site_its_part(faulty, mode):
    changes, left_out = MODES[mode]
    strike = "$__import__('site_faults').strike('{site}')"
    changes = {**changes, "val_fraction": 0, "imports": json.dumps(["$import monai_weckd", strike])}
    overlays = () if mode == "exact" else ("--config_file=scratch.json",)
    options = (*OPTIONS[mode], *overlays, "--on_missing=skip", "--hours=0.05")
    assert federate(faulty, ",".join(FAULTY), *options, changes=changes) == 0
    took_part = [site for site in FAULTY if site not in left_out]
    assert sorted(path.parent.name for path in faulty.glob("out/*/model.pt")) == sorted(took_part)
    log = (faulty / "job" / "simulation" / "federation" / "server" / "log.txt").read_text()
    for site, fault in left_out.items():
        assert f"{site}: {fault}" in log
    chain = json.loads((faulty / "out" / "last" / "chain.json").read_text())
    if mode == "chain":
        assert [stage["site"] for stage in chain["stages"]] == took_part


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_chain_that_a_site_has_stopped_goes_on_when_it_is_mended(root, capsys):
    manifest = root / "north" / "manifest.csv"
    right = manifest.read_text()
    relabel(root / "north", lambda label: "unheard-of")
    options = ("--mode=chain", "--config_file=scratch.json")
    assert federate(root, "west,north,south", *options, changes=SMALL_CHAIN) == 1
    assert "expected a student of north, got ValueError, see its log" in capsys.readouterr().err
    first = (root / "out" / "west" / "stage_1" / "plan.json").stat().st_mtime_ns
    manifest.write_text(right)
    assert federate(root, "west,north,south", *options, changes=SMALL_CHAIN) == 0
    assert (root / "out" / "west" / "stage_1" / "plan.json").stat().st_mtime_ns == first
    assert len(list(root.glob("out/*/model.pt"))) == 3


@pytest.fixture
def servers(tmp_path, monkeypatch):
    """A function that runs commands of NVIDIA FLARE about a server and two sites, all of them on loopback."""
    for name, value in {"HOME": tmp_path, "NVFLARE_POC_WORKSPACE": tmp_path / "poc"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])

    def run(*command):
        return subprocess.run(
            ["nvflare", *command], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300
        ).stdout

    run("poc", "prepare", "-c", "north", "south", "--force")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    project = (tmp_path / "poc" / "project.yml").read_text()
    # a server named localhost listens there alone
    changed = project.replace("name: server", "name: localhost").replace("port: 8002", f"port: {port}")
    (tmp_path / "project.yml").write_text(changed)
    run("poc", "prepare", "-i", str(tmp_path / "project.yml"), "--force")
    try:
        run("poc", "start")
        yield run
    finally:
        run("poc", "stop")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_servers_run_the_job_that_was_written(root, servers):
    command = [one for one in arguments(root, "north,south") if one != "--simulate"]
    assert main(command) == 0
    admin = ["--startup-kit", str(root / "poc" / "example_project" / "prod_00" / "admin@nvidia.com")]
    _, _, job = servers("job", "submit", "-j", str(root / "job" / "federation"), *admin).partition("job_id: ")
    assert "COMPLETED" in servers("job", "wait", job.strip(), *admin)
    models = sorted(root.glob("out/*/model.pt"))
    assert [path.parent.name for path in models] == ["north", "south"]
    assert models[0].read_bytes() == models[1].read_bytes()
