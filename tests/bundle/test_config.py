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

from monai_weckd.bundle.config import BundleConfig

OTOSCOPY = Path(__file__).parents[2] / "bundles" / "otoscopy_chain_classification"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("batchsize", r"expected a key of .*train\.json, got 'batchsize'\. Did you mean 'batch_size'\?"),
        ("batch_size#x", r"expected a key of .*train\.json, got 'batch_size#x'\. Did you mean 'batch_size'\?"),
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
