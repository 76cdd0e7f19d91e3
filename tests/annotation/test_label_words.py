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

import numpy as np
import pytest

from monai_weckd.annotation.label_words import LabelWords, agreed, known_findings, majority
from monai_weckd.plan.label_kind import LabelKind

NAMES = ("effusion", "nodule", "big=mass")
WORDS = LabelWords(LabelKind(NAMES, findings=True), ("cannot tell",))
CLASSES = LabelWords(LabelKind(("ill", "well")), ("cannot tell",))


@pytest.mark.parametrize(
    ("label", "kept", "value"),
    [
        ({"nodule": 0, "effusion": 1}, "effusion=1|nodule=0", [1, 0, -1]),
        ({"Big=Mass": True, "nodule": None}, "big=mass=1", [-1, -1, 1]),
        ("nodule=0| Effusion=1", "effusion=1|nodule=0", [1, 0, -1]),
        ("big=mass=0", "big=mass=0", [-1, -1, 0]),
    ],
)
def test_findings_are_kept_in_one_form(label, kept, value):
    assert WORDS.spelled(label) == kept
    assert WORDS.spelled(kept) == kept
    np.testing.assert_array_equal(WORDS.value(kept), value)
    assert WORDS.plain(kept) == tuple(value)
    names = [f"{name}={one}" for name, one in zip(NAMES, value, strict=True) if one >= 0]
    assert sorted(WORDS.outcomes(kept)) == sorted(names)
    assert known_findings(kept) == {name: one for name, one in zip(NAMES, value, strict=True) if one >= 0}


def test_no_label_is_unknown_and_an_answer_says_nothing_of_findings():
    np.testing.assert_array_equal(WORDS.value(None), [-1, -1, -1])
    assert CLASSES.value(None) == -1
    assert WORDS.spelled("Cannot tell") == "cannot tell"
    assert known_findings("cannot tell") == {}


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("effusio=1", r"label: expected one of the 3 findings, got 'effusio'\. Did you mean 'effusion'\?"),
        ("effusion", r"label: expected 1, 0 or null once for 'effusion', got 'effusion'\. Correct it\."),
        ("effusion=2", r"label: expected 1, 0 or null once for 'effusion', got '2'\."),
        ({"effusion": 1, "Effusion": 0}, r"label: expected 1, 0 or null once for 'effusion', got 0\."),
        ({}, r"label: expected findings such as 'effusion=1', got \{\}\. Say of one finding or more"),
        ({"effusion": None}, r"label: expected findings such as 'effusion=1', got"),
    ],
)
def test_what_says_nothing_or_is_unknown_is_refused(label, message):
    with pytest.raises(ValueError, match=message):
        WORDS.spelled(label)


def test_classes_are_as_they_were():
    assert [CLASSES.spelled(label) for label in ("Ill", "well", "cannot tell")] == ["ill", "well", "cannot tell"]
    assert (CLASSES.value("well"), CLASSES.plain("well"), CLASSES.outcomes("well")) == (1, 1, ("well",))
    with pytest.raises(ValueError, match=r"label: expected one of the 2 classes, got \{'ill': 1\}\."):
        CLASSES.spelled({"ill": 1})


@pytest.mark.parametrize(
    ("labels", "names", "both", "most"),
    [
        (["ill", "ill"], (), "ill", "ill"),
        (["ill", "well"], (), None, None),
        (["ill", "well", "ill"], (), None, "ill"),
        (["a=1", "b=0"], "ab", "a=1|b=0", "a=1|b=0"),
        (["a=1|b=0", "a=0|b=0"], "ab", None, None),
        (["a=1|b=0", "a=0|b=0", "a=1"], "ab", None, "a=1|b=0"),
        (["a=1", "a=0", "b=1"], "ab", None, None),  # nothing decides about a
        (["a=1", "cannot tell"], "ab", None, "a=1"),
        (["cannot tell", "a=1", "cannot tell"], "ab", None, "cannot tell"),
    ],
)
def test_readers_agree_who_do_not_contradict_each_other(labels, names, both, most):
    assert agreed(labels, names) == both
    assert majority(labels, names) == most


@pytest.mark.parametrize("name", ["", " ", "nan", "not labeled", "a\nb", "a|b", "x" * 65, "Cannot tell"])
def test_what_is_no_name_of_a_class_is_refused(name):
    words = LabelWords(LabelKind(("ill", "well")), ("cannot tell",))
    with pytest.raises(ValueError, match="class: expected a name of at most 64 characters that says what an image"):
        words.new_name(name, sure=True)


@pytest.mark.parametrize("name", ["ear wax", "earwax plugs", "EARWAX-PLUG"])
def test_a_name_that_is_nearly_another_is_taken_when_somebody_is_sure(name):
    words = LabelWords(LabelKind(("earwax_plug", "normal")))
    if name != "ear wax":
        with pytest.raises(
            ValueError, match=r"class: expected a name unlike .* nearly 'earwax_plug'\. Add it once more"
        ):
            words.new_name(name)
    assert words.new_name(name, sure=True) == name
    assert words.new_name(" Earwax Plug") == "earwax_plug"
