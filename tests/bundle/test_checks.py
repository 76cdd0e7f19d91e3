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

from dataclasses import fields
from pathlib import Path

import pytest
from monai.bundle import ComponentLocator, ConfigParser

from monai_weckd.bundle.checks import accepted_arguments, unknown_arguments
from monai_weckd.engines import ChainOptions
from monai_weckd.utils.errors import first_cause

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
OTOSCOPY = BUNDLES / "otoscopy_chain_classification"


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("Dataset", ("data", "transform")),
        (
            "monai_weckd.data.read_datalist",
            (
                "dataset_dir",
                "classes",
                "split_file",
                "on_bad_item",
                "transform",
                "spatial_dims",
                "findings",
                "item_level",
            ),
        ),
        ("monai_weckd.engines.ChainOptions", tuple(field.name for field in fields(ChainOptions))),
        # anything goes, or nobody can tell
        ("monai_weckd.handlers.ChainHandler", None),
        ("$@network_def.to", None),
        ("no_such_package.Component", None),
    ],
)
def test_the_arguments_of_a_component_are_those_of_its_signature(target, arguments):
    assert accepted_arguments(target, ComponentLocator()) == arguments


def test_unknown_arguments_are_found_wherever_a_component_is():
    chain = {"_target_": "monai_weckd.engines.ChainOptions", "tolerence": 0.1, "_disabled_": False}
    config = {"chain": chain, "plan": {"_target_": "$@f", "options": chain}, "all": [{"chain": chain}, "tolerence"]}
    found = unknown_arguments(config, ComponentLocator())
    assert found == dict.fromkeys(
        ["chain#tolerence", "plan#options#tolerence", "all#0#chain#tolerence"], "Did you mean 'tolerance'?"
    )


@pytest.fixture
def changed(monkeypatch):
    """Return a function that reads files of the otoscopy bundle, imports, and sets a key."""
    monkeypatch.setattr("sys.excepthook", None)

    def read(key, value, files=("train",)):
        parser = ConfigParser()
        parser.read_config([str(OTOSCOPY / "configs" / f"{name}.json") for name in files])
        parser.get_parsed_content("imports")
        parser[key] = value
        parser.parse()
        return parser

    return read


def first_error(parser, key):
    """Return the error behind those of MONAI that an evaluation ends with."""
    with pytest.raises(RuntimeError) as error:
        parser.get_parsed_content(key)
    return str(first_cause(error.value))


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("labelfraction", 0.2, "Did you mean 'label_fraction'?"),
        ("train#datset", [], "Did you mean 'train#dataset'?"),
        ("chain#tolerence", 0.1, "Did you mean 'tolerance'?"),
        ("plan#settings#polcy", "shared", "Did you mean 'policy'?"),
        ("train#handlers#0#intrval", 2, "Did you mean 'interval'?"),
    ],
)
def test_check_run_names_the_nearest_key(key, value, hint, monkeypatch):
    monkeypatch.setattr("sys.excepthook", None)
    parser = ConfigParser()
    parser.read_config(str(OTOSCOPY / "configs" / "train.json"))
    parser.get_parsed_content("imports")
    assert parser.get_parsed_content("run#0") is None
    parser[key] = value
    parser.parse()
    expected = f"{key}: expected a key that the configuration uses, got one that nothing reads. {hint}"
    assert first_error(parser, "run#0") == expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("max_epochs", 6.0, "max_epochs: expected an integer, got 6.0"),
        ("learning_rate", "1e-3x", "learning_rate: expected a number, got '1e-3x'"),
        ("seed", None, "seed: expected an integer, got None"),
        ("seed", "None", "seed: expected an integer, got 'None'"),
        ("num_stages", "two", "num_stages: expected an integer, got 'two'"),
        ("num_stages", True, "num_stages: expected an integer, got True"),
        ("batch_size", [8], "batch_size: expected an integer, got [8]"),
        ("device", "cuda:99", "device: expected a device that PyTorch finds here, got 'cuda:99' ("),
        ("device", "gpu", "device: expected a device that PyTorch finds here, got 'gpu' ("),
        ("overwrite", "True", "overwrite: expected true or false, got 'True'"),
        ("resume", 1, "resume: expected true or false, got 1"),
        ("val_fraction", "none", "val_fraction: expected a number or null, got 'none'"),
        ("spatial_size", 64, "spatial_size: expected a list, got 64"),
        ("output_dir", "runs/run ::7", "output_dir: expected a path without # and ::, which MONAI takes"),
        ("dataset_dir", "images#1", "dataset_dir: expected a path without # and ::, which MONAI takes"),
        ("chain#pool_ratio", 0.5, "chain#pool_ratio: expected an integer, got 0.5"),
        ("chain#calibrate", "false", "chain#calibrate: expected true or false, got 'false'"),
        ("chain#stage_epochs", 4, "chain#stage_epochs: expected a list or null, got 4"),
        ("plan#settings#stratify", "no", "plan#settings#stratify: expected true or false, got 'no'"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_key(key, value, expected, changed):
    parser = changed(key, value, files=("train", "scratch"))
    found = first_error(parser, "run#0")
    assert found.startswith(expected)
    assert "\n" not in found


@pytest.mark.parametrize(("key", "value"), [("seed", "abc"), ("overwrite", "no"), ("chain#calibrate", 1)])
def test_a_value_of_another_type_is_refused_before_it_is_used(key, value, changed):
    parser = changed(key, value)
    assert first_error(parser, "initialize#0").startswith(f"{key}: expected ")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("seed", "@sed", "seed: expected a reference to a key of the configuration, got 'sed'. Did you mean 'seed'?"),
        (
            "train#dataset#data",
            "$@datalst.items",
            "train#dataset#data: expected a reference to a key of the configuration, got 'datalst'. "
            "Did you mean 'datalist'?",
        ),
        (
            "train#recorder#target_layer",
            "@train#trainer#student_laier",
            "train#recorder#target_layer: expected a reference to a key of the configuration, "
            "got 'train#trainer#student_laier'. Did you mean 'train#trainer#student_layer'?",
        ),
        (
            "train#inferer#_target_",
            "monai_weckd.inferers.HeadInfer",
            "train#inferer#_target_: expected a component that can be imported, "
            "got 'monai_weckd.inferers.HeadInfer'. Did you mean 'HeadInferer'?",
        ),
        (
            "train#handlers#0#_target_",
            "ValidatonHandler",
            "train#handlers#0#_target_: expected a component that can be imported, got 'ValidatonHandler'. "
            "Correct it, or install its package.",
        ),
    ],
)
def test_what_a_key_names_exists(key, value, expected, changed):
    parser = changed(key, value)
    assert first_error(parser, "run#0") == expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("label_fraction", 3, "label_fraction: expected a fraction in (0, 1], got 3"),
        ("plan#settings#policy", "shred", "policy: expected one of "),
        ("chain#averaging", 2.0, "averaging: expected "),
    ],
)
def test_an_option_out_of_its_range_is_refused_before_an_image_is_read(key, value, expected, changed):
    parser = changed(key, value)
    assert first_error(parser, "run#1").startswith(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool_ratio": 0.5}, r"^pool_ratio: expected an integer, got 0\.5"),
        ({"calibrate": "false"}, r"^calibrate: expected true or false, got 'false'"),
        ({"averaging": "0.9"}, r"^averaging: expected a number, got '0\.9'"),
        ({"head_layer": 3}, r"^head_layer: expected text or null, got 3"),
    ],
)
def test_options_of_a_chain_have_their_types(options, message):
    with pytest.raises(ValueError, match=message):
        ChainOptions(**options)


OTHERS = ("metadata", "evaluate", "dicom")
TRAINING = [
    path
    for path in sorted(BUNDLES.glob("*/configs/*.json"))
    if path.stem not in OTHERS and not path.stem.startswith("inference")
]


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_overlays_and_training_hold_no_key_that_nothing_reads(path, monkeypatch):
    monkeypatch.setattr("sys.excepthook", None)
    names = dict.fromkeys(["train", "scratch", path.stem] if path.stem != "train" else ["train"])
    parser = ConfigParser()
    parser.read_config([str(path.with_name(f"{name}.json")) for name in names])
    parser.get_parsed_content("imports")
    assert "check_run" in parser["run#0"]
    assert parser.get_parsed_content("run#0") is None


@pytest.mark.parametrize(
    ("key", "word", "expected"),
    [
        ("overwrite", "true", True),
        ("resume", "false", False),
        ("cache_dir", "null", None),
        ("val_fraction", "null", None),
        ("chain#calibrate", "true", True),
        ("plan#settings#stratify", "false", False),
        ("chain#stage_epochs", "null", None),
    ],
)
def test_the_words_of_json_are_read_from_the_command_line(key, word, expected, changed):
    parser = changed(key, word, files=("train", "scratch"))
    parser.get_parsed_content("initialize")
    component, _, field = key.rpartition("#")
    found = getattr(parser.get_parsed_content(component), field) if component else parser.get_parsed_content(key)
    assert found is expected
    assert parser[key] is expected


@pytest.mark.parametrize(
    "words", [["--seed", "None"], ["--seed=None"], ["--chain#calibrate", "None", "--num_stages", "2"]]
)
def test_none_on_the_command_line_is_refused(words, changed, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/monai/bundle/__main__.py", "run", "--meta_file", "None", *words])
    key = words[0].removeprefix("--").partition("=")[0]
    found = first_error(changed("seed", 0), "initialize#0")
    assert found.startswith(f"{key}: expected a value, got None, which MONAI's command line ignores.")
    monkeypatch.setattr("sys.argv", ["train.py", *words])
    changed("seed", 0).get_parsed_content("initialize#0")


def test_other_words_stay_text():
    parser = ConfigParser(
        {"names": ["true", "null"], "output_dir": "true", "run": ["$monai_weckd.bundle.check_types()"]}
    )
    parser["imports"] = ["$import monai_weckd"]
    parser.get_parsed_content("imports")
    parser.get_parsed_content("run")
    assert parser["names"] == ["true", "null"]
