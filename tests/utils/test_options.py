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

from dataclasses import dataclass

import pytest

from monai_weckd.utils.options import check_choices, option, option_names, option_rows


@dataclass(frozen=True)
class Meal:
    """Two options, one of which can take two values only."""

    course: str = option("soup", "what is eaten", choices=("soup", "salad"))
    guests: int = option(2, "how many eat")


def test_a_value_that_is_no_choice_names_the_nearest():
    with pytest.raises(ValueError, match=r"course: expected one of .*, got 'sopu'. Did you mean 'soup'\?"):
        check_choices(Meal(course="sopu"))
    check_choices(Meal(course="salad", guests=-1))


def test_names_and_rows_are_those_of_the_fields():
    assert option_names(Meal) == ("course", "guests")
    assert option_rows(Meal) == [("course", "'soup'", "what is eaten: soup, salad"), ("guests", "2", "how many eat")]
