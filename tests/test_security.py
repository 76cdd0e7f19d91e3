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

"""The policy of SECURITY.md, as far as it can be read off the files."""

from __future__ import annotations

import ast
import configparser
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from PIL import Image

from monai_weckd.utils.tables import table_text

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "monai_weckd").rglob("*.py"), *(ROOT / "bundles").rglob("*.py")])
CONFIGS = sorted((ROOT / "bundles").glob("*/configs/*.json"))
UNSAFE_MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "ctypes"}
NETWORK_MODULES = {
    "socket",
    "ssl",
    "urllib",
    "http",
    "requests",
    "ftplib",
    "smtplib",
    "huggingface_hub",
    "dicomweb_client",
}
DICOMWEB = ROOT / "monai_weckd" / "pacs"  # asked for by name: fetch and send
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "unsafe_load", "full_load", "load_lua"}
ADVISORIES = (
    *("CVE-2025-58755", "CVE-2025-58756", "CVE-2025-58757", "GHSA-9rg3-9pvr-6p27", "GHSA-89gg-p5r5-q6r4"),
    *("GHSA-wg9g-w2j2-8pgr", "GHSA-rghg-q7wp-9767", "GHSA-qxq5-qhx6-94qw", "GHSA-873f-pvrv-4x83"),
    *("GHSA-wvpx-5qmp-46g3", "GHSA-x6pr-233j-x5cw", "GHSA-8f32-8649-rv87", "GHSA-2wx3-8x3w-r8qv"),
)


def findings(code: str) -> list[str]:
    """Return what a piece of code does that the policy forbids."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            modules = []
        found += [name for name in modules if name.split(".")[0] in UNSAFE_MODULES | NETWORK_MODULES]
        if isinstance(node, ast.Call):
            found += _call(node)
    return found


def _call(node: ast.Call) -> list[str]:
    name = ast.unparse(node.func)
    options = {option.arg: ast.unparse(option.value) for option in node.keywords}
    found = [f"{key}={value}" for key, value in options.items() if (key, value) == ("shell", "True")]
    found += ["allow_pickle"] if options.get("allow_pickle", "False") != "False" else []
    # of a module of that name: re.compile and ast.literal_eval are others
    if name in UNSAFE_CALLS or name.rpartition(".")[2] in UNSAFE_CALLS - {"eval", "compile"}:
        found.append(name)
    if name == "torch.load" and options.get("weights_only") != "True":
        found.append(name)
    if name in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
        found.append(name)
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import urllib.request",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.lib.format.read_array(file, allow_pickle=True)",
        "import yaml",
        "eval(text)",
        "exec(text)",
        "builtins.exec(text)",
        "compile(text, '', 'exec')",
        "__import__('os')",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_search_finds(code):
    assert findings(code)


def test_no_source_runs_what_it_reads():
    assert len(SOURCES) > 100
    found = {path: findings(path.read_text("utf-8")) for path in SOURCES}
    # its Parallel calls functions of this package in other processes; nothing is loaded
    assert set(found.pop(ROOT / "monai_weckd" / "utils" / "spread.py")) == {"joblib"}
    connecting = {name for path in DICOMWEB.glob("*.py") for name in found.pop(path)}
    assert connecting == {"dicomweb_client", "requests", "urllib.parse"}
    # quoting keeps the arguments of a job in one word
    assert set(found.pop(ROOT / "monai_weckd" / "fl" / "messages.py")) == {"urllib.parse"}
    # a name in a header is quoted, since headers hold no other letters
    assert set(found.pop(ROOT / "monai_weckd" / "apps" / "label" / "guard.py")) == {"urllib.parse"}
    # it asks whether a port is free, and connects to nothing
    assert set(found.pop(ROOT / "monai_weckd" / "cli" / "label.py")) == {"socket"}
    assert {str(path.relative_to(ROOT)): names for path, names in found.items() if names} == {}


def strings(config) -> list[str]:
    if isinstance(config, str):
        return [config]
    parts = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return [text for part in parts for text in strings(part)]


def expressions() -> set[str]:
    texts = {text for path in CONFIGS for text in strings(json.loads(path.read_text("utf-8")))}
    return {text[1:] for text in texts if text.startswith("$")}


def test_expressions_of_the_bundles_are_few_and_do_nothing_that_a_source_may_not():
    assert len(CONFIGS) > 30
    found = expressions()
    # a limit to think about when it is reached: what an expression does is better done in a function with a test
    assert 50 < len(found) <= 95
    for text in found:
        code = re.sub(r"@[\w#]+", "reference", text)
        assert findings(code) == [], text
        imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
        assert names <= {"monai_weckd", "csv", "json", "os", "pathlib", "sys", "torch.distributed", "PIL.ImageOps"}


def test_targets_are_of_known_packages():
    targets = {
        text
        for path in CONFIGS
        for text in re.findall(r'"_target_": "([^"]+)"', path.read_text("utf-8"))
        if "." in text
    }
    assert {text.split(".")[0] for text in targets} <= {"monai_weckd", "monai", "torch", "ignite", "networks"}


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A data set whose folders and files are named like expressions, references and macros of a configuration."""
    monkeypatch.chdir(tmp_path)
    names = ("$open('pwned','w')", "@seed", "%run", "$@plan")
    for number in range(40):
        folder = tmp_path / "data" / names[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"$open('pwned_{number}','w').png")
    return tmp_path, sorted(names)


def test_names_from_the_data_are_never_evaluated(hostile):
    root, names = hostile
    configs = ROOT / "bundles" / "otoscopy_chain_classification" / "configs"
    parser = ConfigParser()
    parser.read_config(str(configs / "train.json"))
    parser["dataset_dir"], parser["output_dir"] = str(root / "data"), str(root / "out")
    parser["missing_classes"], parser["val_fraction"] = "allow", 0.4
    parser.get_parsed_content("imports")
    assert list(parser.get_parsed_content("datalist").classes) == names
    ids = {item["id"] for item in parser.get_parsed_content("datalist").items}
    assert ids == {path.relative_to(root / "data").as_posix() for path in (root / "data").rglob("*.png")}
    plan = parser.get_parsed_content("plan")
    assert set(plan.classes) == set(names)
    for config in ("inference", "evaluate"):
        (root / "chain.json").write_text(json.dumps({"classes": names}))
        parser = ConfigParser()
        parser.read_config(str(configs / f"{config}.json"))
        parser.read_meta(str(configs / "metadata.json"))
        parser["dataset_dir"], parser["ckpt_path"] = str(root / "data"), str(root / "model.pt")
        parser.get_parsed_content("imports")
        assert parser.get_parsed_content("class_names") == names
        if config == "inference":
            assert parser.get_parsed_content("header")[2:] == [f"probability_{name}" for name in names]
            images = [item["image"] for item in parser.get_parsed_content("dataset#data")]
            assert len(images) == 40
            assert all("$open(" in name for name in images)
    assert sorted(path.name for path in root.iterdir()) == ["chain.json", "data"]


def guards():
    for path in (ROOT / "bundles").glob("*/configs/inference.json"):
        config = json.loads(path.read_text("utf-8"))
        assert config["store"]["output_transform"].count("@guard(") == 2
        parser = ConfigParser({"guard": config["guard"]})
        yield parser.get_parsed_content("guard")


GUARDS = list(guards())


@given(st.text(min_size=1) | st.sampled_from(["=1", "+1", "-1", "@a", "\t1", "\r1", "\n1", "'a", "a"]))
def test_inference_guards_its_table_as_training_does(text):
    # the bundles' inference runs without this package, so it has the rule once more
    cell = table_text([text], []).removesuffix("\r\n")
    assert len(GUARDS) == 5
    for guard in GUARDS:
        assert (guard(text) == f"'{text}") == cell.lstrip('"').startswith("'")
        assert guard(text) in (text, f"'{text}")


def test_requirements_are_beyond_the_advisories():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert "monai>=1.6.1" in config["options"]["install_requires"].split()
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    assert [name for name in ADVISORIES if name not in text] == []


ATTACKS = (ROOT / "docs" / "reference" / "attacks.md").read_text("utf-8")


def attacks() -> list[tuple[str, str]]:
    """Return file and name of the test of each attack in the table."""
    rows = [line for line in ATTACKS.splitlines() if line.startswith("| ") and "::" in line]
    return [re.fullmatch(r"\| .+ \| .+ \| `(tests/\S+\.py)::(test_\w+)` \|", row).groups() for row in rows]


def test_each_attack_has_a_test_that_keeps_its_outcome():
    found = attacks()
    assert len(found) > 40
    assert len(found) == ATTACKS.count("::test_")
    for path, name in dict.fromkeys(found):
        names = {node.name for node in ast.parse((ROOT / path).read_text("utf-8")).body if hasattr(node, "name")}
        assert name in names, f"{path}::{name}"
    assert "docs/reference/attacks.md" in (ROOT / "SECURITY.md").read_text("utf-8")
