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
import sys
from pathlib import Path

import pytest

from monai_weckd.bundle import BundleConfig
from monai_weckd.data import Datalist

OTOSCOPY = Path(__file__).parents[2] / "bundles" / "otoscopy_chain_classification"

TRAIN = {
    "imports": ["$import types"],
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/output'",
    "cache_dir": None,
    "rate": 0.1,
    "items": "$[1, 2]",
    "log": "$[]",
    "chain": {"_target_": "monai_weckd.engines.ChainOptions", "init": "teacher"},
    "train": {
        "monitors": ["a", "b"],
        "recorder": {"_target_": "types.SimpleNamespace", "items": "@items"},
        "trainer": {
            "_target_": "types.SimpleNamespace",
            "rate": "@rate",
            "chain": "@chain",
            "began_after": "$list(@log)",
            "places": "$(@output_dir, @cache_dir)",
            "handlers": "$@train#monitors + [@train#recorder]",
        },
    },
    "test": {"items": "$[3]"},
    "initialize": ["$@log.append('initialize')"],
    "run": ["$@log.append('run')", "$print(@test#items)"],
}
METADATA = {
    "network_data_format": {
        "inputs": {"image": {"spatial_shape": [40, 56, 40]}},
        "outputs": {"pred": {"channel_def": {"0": "ill", "1": "well"}}},
    }
}


@pytest.fixture
def bundle(tmp_path):
    """Return the folder of a bundle with an overlay."""
    overlay = {"rate": 0.2, "chain#init": "initial", "+train#monitors": ["c"]}
    other = {**TRAIN, "rate": 0.5}
    (tmp_path / "configs").mkdir()
    for name, content in {"train": TRAIN, "metadata": METADATA, "more": overlay, "other": other}.items():
        (tmp_path / "configs" / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_a_bundle_is_read_as_it_is_written(bundle):
    config = BundleConfig(bundle)
    assert config.root == bundle
    assert config.files == [bundle / "configs" / "train.json"]
    assert (config["rate"], config["items"], config["chain#init"]) == (0.1, "$[1, 2]", "teacher")
    assert config["bundle_root"] == str(bundle)
    assert (config.spatial_dims, config.class_names) == (3, ("ill", "well"))
    assert "chain#init" in config
    assert "chain#tolerance" not in config
    assert BundleConfig(bundle, "other")["rate"] == 0.5


def test_overlays_are_merged_in_their_order_and_changes_come_last(bundle, tmp_path):
    (tmp_path / "mine.json").write_text('{"rate": 0.3}')
    config = BundleConfig(bundle, overlays=["more.json", tmp_path / "mine.json"])
    assert config.files[1:] == [bundle / "configs" / "more.json", tmp_path / "mine.json"]
    assert (config["rate"], config["chain#init"], config["train#monitors"]) == (0.3, "initial", ["a", "b", "c"])
    assert BundleConfig(bundle, overlays=["more.json"])["rate"] == 0.2
    changed = BundleConfig(bundle, overlays=["more.json"], changes={"rate": 0.4, "chain#tolerance": 0.01})
    assert changed["rate"] == 0.4
    assert changed["chain"] == {"_target_": TRAIN["chain"]["_target_"], "init": "initial", "tolerance": 0.01}


def test_what_is_edited_later_changes_nothing(bundle):
    config = BundleConfig(bundle, overlays=["more.json"])
    for name in ("train", "more"):
        (bundle / "configs" / f"{name}.json").write_text("{}")
    assert config.value("rate") == config.copy().value("rate") == 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "absent"}, r"bundle: expected configs/absent\.json in '.*', got none\. Pass a bundle\."),
        (
            {"overlays": ["absent.json"]},
            r"config_file: expected a file, or the name of one in .*, got 'absent\.json'\.",
        ),
    ],
)
def test_a_missing_file_is_named(bundle, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        BundleConfig(bundle, **arguments)


@pytest.mark.parametrize(
    ("key", "where", "hint"),
    [
        ("rte", "a key of .*train.json", "Did you mean 'rate'"),
        ("test#itms", "a key of test of .*train.json", "Did you mean 'items'"),
        ("chain#tolerence", "a key of chain of .*train.json", "Did you mean 'tolerance'"),
        ("train#monitors#2", "a key of train#monitors of .*train.json", "Valid: '0', '1'"),
        ("rate#x", "a key of .*train.json", "Did you mean 'rate'"),
        ("cache_dir#x", "a key of .*train.json", "Did you mean 'cache_dir'"),
        ("absent#x", "a key of .*train.json", "Valid: 'imports'"),
    ],
)
def test_an_unknown_key_is_refused_and_changes_nothing(bundle, key, where, hint):
    config = BundleConfig(bundle)
    before = config.plain()
    with pytest.raises(ValueError, match=f"^set: expected {where}, got '{key}'. {hint}"):
        config.set(key, 1)
    with pytest.raises(ValueError, match=f"^set: expected {where}, got '{key}'"):
        BundleConfig(bundle, changes={key: 1})
    with pytest.raises(ValueError, match=f"^set: expected {where}, got '{key}'"):
        config.copy({key: 1})
    assert config.plain() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rate", 0.7),
        ("rate", {"_target_": "types.SimpleNamespace"}),
        ("train#monitors#1", "z"),
        ("chain#init", "initial"),
        ("chain::tolerance", 0.1),
        ("chain#_disabled_", True),
        # it takes whatever it is given
        ("train#trainer#more", 1),
    ],
)
def test_a_key_and_an_argument_that_a_component_takes_can_be_set(bundle, key, value):
    config = BundleConfig(bundle)
    config.set(key, value)
    assert config[key] == value


def test_handlers_a_component_and_a_group_can_be_left_out(bundle):
    config = BundleConfig(bundle)
    config.leave_out("train#monitors", "train#recorder", "test", "absent", "train#absent")
    assert "test" not in config
    assert config.value("train#recorder") is None
    assert config.trainer().handlers == [None]
    whole = BundleConfig(bundle).trainer().handlers
    assert whole[:2] == ["a", "b"]
    assert whole[2].items == [1, 2]


def test_what_is_left_out_evaluates_nothing_and_needs_no_other_part(bundle):
    overlay = {"+train#recorder": {"test": "@test#items", "settings": "$@log.append('recorder')"}}
    (bundle / "configs" / "tested.json").write_text(json.dumps(overlay))
    config = BundleConfig(bundle, overlays=["tested.json"])
    for _ in range(2):
        config.leave_out("train#recorder", "test")
    assert config.trainer().handlers == ["a", "b", None]
    assert config.value("log") == ["initialize"]


def test_a_copy_is_its_own_and_takes_objects_for_parts(bundle):
    config = BundleConfig(bundle, overlays=["more.json"])
    evaluated, items = config.value("chain"), Datalist([{"id": "7"}], ("ill", "well"))
    copy = config.copy({"chain#tolerance": 0.2}, items=items)
    assert copy.value("train#recorder").items is items
    assert copy.value("chain").tolerance == 0.2
    assert (copy.root, copy.files) == (config.root, config.files)
    copy.leave_out("train#monitors")
    copy.set("rate", 0.9)
    assert config.value("chain") is evaluated
    assert evaluated.tolerance == 0.0
    assert config.value("items") == [1, 2]
    assert config["train#monitors"] == ["a", "b", "c"]
    assert config["rate"] == 0.2


def test_a_value_is_the_same_object_each_time_until_something_is_set(bundle):
    config = BundleConfig(bundle)
    assert config.value("log") is config.value("log")
    config.set("rate", 0.2)
    assert config.value("train#trainer#rate") == 0.2


def test_an_error_is_the_one_that_was_raised(bundle):
    config = BundleConfig(bundle, changes={"chain#init": "techer"})
    with pytest.raises(ValueError, match=r"^init: expected one of .*Did you mean 'teacher'\?$") as error:
        config.value("train#trainer")
    assert error.value.__cause__ is None


def test_the_trainer_comes_after_initialize_and_has_not_run(bundle):
    config = BundleConfig(bundle, changes={"rate": 0.7})
    trainer = config.trainer()
    assert trainer.began_after == ["initialize"]
    assert config.value("log") == ["initialize"]
    assert (trainer.rate, trainer.chain.init) == (0.7, "teacher")


def test_scripts_of_the_bundle_can_be_imported(bundle, monkeypatch):
    monkeypatch.setattr(sys, "path", ["first", *sys.path])
    (bundle / "of_this_bundle.py").write_text("def rate(): return 0.25\n")
    config = BundleConfig(bundle, changes={"rate": {"_target_": "of_this_bundle.rate"}})
    assert config.trainer().rate == 0.25
    assert sys.path[:2] == ["first", str(bundle)]


def test_the_plain_values_are_without_places(bundle):
    config = BundleConfig(bundle)
    plain = config.plain()
    expected = {k: v for k, v in TRAIN.items() if k not in ("bundle_root", "output_dir", "cache_dir")}
    # monitors watch, and change nothing
    expected["train"] = {k: v for k, v in TRAIN["train"].items() if k != "monitors"}
    assert plain == expected
    plain["train"]["trainer"]["rate"] = 7
    assert config["train#trainer#rate"] == "@rate"


def test_a_key_that_nothing_reads_is_refused(bundle):
    (bundle / "mine.json").write_text('{"rte": 1}')
    config = BundleConfig(bundle, overlays=[bundle / "mine.json"])
    with pytest.raises(ValueError, match=r"^rte: expected a key that the configuration uses, got one.*'rate'\?$"):
        config.refuse_unused()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("labelfraction", r"expected a key of .*train\.json, got 'labelfraction'\. Did you mean 'label_fraction'\?"),
        ("cache_dir#x", r"expected a key of .*train\.json, got 'cache_dir#x'\. Did you mean 'cache_dir'\?"),
        ("chan#tolerance", r"expected a key of .*train\.json, got 'chan#tolerance'\. Did you mean 'chain'\?"),
        ("chain#tolerence", r"expected a key of chain of .*, got 'chain#tolerence'\. Did you mean 'tolerance'\?"),
        ("spatial_size#2", r"expected a key of spatial_size of .*, got 'spatial_size#2'\. Valid: '0', '1'\."),
    ],
)
def test_an_unknown_key_is_refused_with_the_one_that_was_meant(key, message):
    with pytest.raises(ValueError, match=f"set: {message}"):
        BundleConfig(OTOSCOPY, changes={key: 1})


def test_a_key_that_is_not_there_has_no_value():
    config = BundleConfig(OTOSCOPY, "inference")
    for ask in (config.value, config.__getitem__):
        with pytest.raises(
            ValueError, match=r"bundle: expected the key 'plan#shards' in its inference\.json, got none"
        ):
            ask("plan#shards")


@pytest.mark.parametrize("command", ["label", "federate", "tune"])
def test_a_command_for_single_images_refuses_items_of_several(command):
    options = {"changes": {"datalist#item_level": "patient"}}
    message = rf"item_level: expected 'image' for `{command}`, which takes single images, got 'patient'\. Train, plan"
    with pytest.raises(ValueError, match=message):
        BundleConfig(OTOSCOPY, **options).refuse_several_images(command)
    BundleConfig(OTOSCOPY).refuse_several_images(command)
