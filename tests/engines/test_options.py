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

from monai_weckd.engines import ChainOptions


def test_args_validation():
    with pytest.raises(ValueError, match=r"init: expected one of .*, got 'techer'. Did you mean 'teacher'"):
        ChainOptions(init="techer")
    with pytest.raises(ValueError, match=r"accept: expected one of .*, got 'never'. Valid: 'improves', 'always'"):
        ChainOptions(accept="never")
    with pytest.raises(ValueError, match="pool_ratio: expected 0 or more, got -1"):
        ChainOptions(pool_ratio=-1)
    for tolerance in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"tolerance: expected 0 or more, got {tolerance}\. Pass 0 to reject all"):
            ChainOptions(tolerance=tolerance)
    with pytest.raises(ValueError, match=r"averaging: expected a decay from 0 to below 1, got 1\.0"):
        ChainOptions(averaging=1.0)
    with pytest.raises(ValueError, match="views: expected 0 or more, got -1"):
        ChainOptions(views=-1)


def test_options_that_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match="accept: expected 'always' with chain_epochs, got 'improves'"):
        ChainOptions(chain_epochs=6)
    with pytest.raises(ValueError, match="teacher_cache: expected False with views=0"):
        ChainOptions(teacher_cache=True)
    with pytest.raises(ValueError, match=r"attention_weight: expected 0 with teacher='ensemble', got 0\.5"):
        ChainOptions(teacher="ensemble").check_attention(0.5)
    ChainOptions(teacher="ensemble").check_attention(0.0)
    ChainOptions().check_attention(0.5)


@pytest.mark.parametrize(
    ("teacher", "own"), [("last", False), ("ensemble", False), ("student", True), ("average", True)]
)
def test_a_student_is_its_own_teacher_only_where_asked(teacher, own):
    assert ChainOptions(teacher=teacher, averaging=0.9).teaches_itself is own


def test_options_are_given_whole_or_one_by_one():
    arguments = {"averaging": 0.9, "decollate": False}
    assert ChainOptions.taken_from(arguments, None) == ChainOptions(averaging=0.9)
    assert arguments == {"decollate": False}
    assert ChainOptions.taken_from({}, ChainOptions(views=2)) == ChainOptions(views=2)
    with pytest.raises(TypeError, match="chain: expected None beside averaging"):
        ChainOptions.taken_from({"averaging": 0.9}, ChainOptions())
