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

from pathlib import Path

import pytest
import torch
from annotation_runs import OTOSCOPY, label_next, make_annotated

from monai_weckd.annotation import AnnotatedBundle


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bundle": "none"}, r"bundle: expected configs/train\.json in 'none', got none\. Pass a bundle\."),
        (
            {"overlays": ["none.json"]},
            r"config_file: expected a file, or the name of one in .*configs, got 'none\.json'\.",
        ),
        (
            {"classes": ["a"]},
            r"classes: expected two or more, each once, got \['a'\]\. Name the classes to distinguish\.",
        ),
        ({"classes": ["a", "b", "a"]}, r"classes: expected two or more, each once, got \['a', 'b', 'a'\]"),
        ({"changes": {"sed": 1}}, r"set: expected a key of .*train\.json, got 'sed'\. Did you mean 'seed'\?"),
        ({"changes": {"plan#settings#policy": "shared"}}, "policy: expected 'cumulative' or 'disjoint', got 'shared'"),
    ],
)
def test_refuses_a_bundle_that_does_not_serve(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        AnnotatedBundle(**{"bundle": OTOSCOPY, "dataset_dir": tmp_path, "cache_dir": tmp_path, **arguments})


EXPRESSIONS = ("$open('pwned','w')", "@seed", "%seed", "$@plan", "$__import__('pathlib').Path('pwned').touch() or 'a'")


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_names_of_classes_and_folders_are_text(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    bundle = AnnotatedBundle(
        OTOSCOPY, text, classes=[text, "b"], cache_dir=f"{text}.cache", changes={"spatial_size": [32, 32]}
    )
    assert bundle.classes == (text, "b")
    assert bundle.config.value("dataset_dir") == text
    assert bundle.config.value("cache_dir") == f"{text}.cache"
    torch.save(bundle._parts.new_network().state_dict(), "model.pt")
    bundle.predictor("model.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_chain_is_trained_in_folders_that_look_like_expressions(studies, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("$open('pwned','w')").symlink_to(studies)
    chain, items = make_annotated(Path("$open('pwned','w')"), Path("@seed"))
    labels = {}
    label_next(chain, items, labels, 16)
    chain.append_stage(items, labels)
    assert chain.predictor() is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["$open('pwned','w')", "@seed"]
