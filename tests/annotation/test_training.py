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

import pytest
from annotation_runs import OTOSCOPY

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
            r"classes: expected two or more, each once, got \['a'\]\. Name what is to be told apart\.",
        ),
        ({"classes": ["a", "b", "a"]}, r"classes: expected two or more, each once, got \['a', 'b', 'a'\]"),
        ({"changes": {"sed": 1}}, r"set: expected a key of .*train\.json, got 'sed'\. Did you mean 'seed'\?"),
        ({"changes": {"plan#settings#policy": "shared"}}, "policy: expected 'cumulative' or 'disjoint', got 'shared'"),
    ],
)
def test_refuses_a_bundle_that_does_not_serve(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        AnnotatedBundle(**{"bundle": OTOSCOPY, "dataset_dir": tmp_path, "cache_dir": tmp_path, **arguments})
