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

import logging
import math

import pytest
import torch

from monai_weckd.fl.chain_rounds import ChainProgress, StageAnswer, run_over_sites


def answer(value, names=("weight",), classes=("a", "b")):
    record = {"labeled": value, "classes": dict(zip(classes, (value, 0), strict=True))}
    return StageAnswer({name: torch.full((2,), float(value)) for name in names}, record)


class Sites:
    """Sites whose students are numbered in the order of the stages."""

    def __init__(self, fails_after=None):
        self.arrived, self.fails_after = [], fails_after

    def __call__(self, students, site, visit, again):
        if len(self.arrived) == self.fails_after:
            raise KeyboardInterrupt
        self.arrived.append((site, visit, [int(student.weights["weight"][0]) for student in students]))
        return answer(len(self.arrived))


def test_the_weights_of_a_site_arrive_at_the_next():
    sites = Sites()
    weights, records = run_over_sites(sites, ["north", "south", "west"])
    assert sites.arrived == [("north", 1, []), ("south", 1, [1]), ("west", 1, [2])]
    assert weights["weight"].tolist() == [3, 3]
    assert [(one["stage"], one["site"], one["labeled"]) for one in records] == [
        (1, "north", 1),
        (2, "south", 2),
        (3, "west", 3),
    ]


FAULTS = {
    "no answer in time": None,
    "ValueError, see its log": StageAnswer({}, {}, fault="ValueError, see its log"),
    "weights of another network or class list": answer(5, ("weight", "bias")),
    "weights that are not finite": answer(math.nan),
}


def test_students_of_all_sites_arrive_the_latest_of_each():
    sites = Sites()
    weights, records = run_over_sites(sites, ["north", "south", "west"], teachers="all", there_and_back=True)
    assert sites.arrived == [
        ("north", 1, []),
        ("south", 1, [1]),
        ("west", 1, [1, 2]),
        ("south", 2, [1, 2, 3]),
        ("north", 2, [1, 3, 4]),  # the one that learned last is the last one, from which the next starts
    ]
    assert weights["weight"].tolist() == [5, 5]
    assert [one["site"] for one in records] == ["north", "south", "west", "south", "north"]


def test_a_list_of_other_classes_is_a_fault():
    given = iter([answer(1), answer(2, classes=("a", "c"))])
    with pytest.raises(ValueError, match=r"got weights of another network or class list\. Mend it"):
        run_over_sites(lambda *_: next(given), ["north", "south"])


@pytest.mark.parametrize("fails_after", [0, 1, 2, 3])
def test_another_server_goes_on_where_one_has_stopped(fails_after, tmp_path):
    path = tmp_path / "server" / "chain.pt"
    options = {"teachers": "all", "there_and_back": True}
    whole = Sites()
    expected = run_over_sites(whole, ["north", "south", "west"], **options)
    first, second = Sites(fails_after), Sites()
    with pytest.raises(KeyboardInterrupt):
        run_over_sites(first, ["north", "south", "west"], **options, progress=ChainProgress(path))
    progress = ChainProgress(path)
    assert progress.again
    second.arrived = list(first.arrived)
    found = run_over_sites(second, ["north", "south", "west"], **options, progress=progress)
    assert second.arrived == whole.arrived
    assert found[0]["weight"].equal(expected[0]["weight"])
    assert found[1] == expected[1]
    progress.remove()
    assert not path.exists()
    assert not ChainProgress(path).again


def test_a_site_that_was_left_out_is_not_asked_again(tmp_path):
    path, given = tmp_path / "chain.pt", {"north": answer(1), "south": None}

    def ask(students, site, visit, again):
        return given[site]

    with pytest.raises(KeyError):
        run_over_sites(ask, ["north", "south", "west"], on_missing="skip", progress=ChainProgress(path))
    given = {"west": answer(3)}
    _, records = run_over_sites(ask, ["north", "south", "west"], on_missing="skip", progress=ChainProgress(path))
    assert [one["site"] for one in records] == ["north", "west"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_missing_site_stops_the_chain_or_is_left_out(fault, caplog):
    given = {"north": answer(1), "south": FAULTS[fault], "west": answer(3)}
    with pytest.raises(ValueError, match=f"sites: expected a student of south, got {fault}. Mend it"):
        run_over_sites(lambda students, site, *_: given[site], list(given))
    arrived = {}
    with caplog.at_level(logging.WARNING):
        _, records = run_over_sites(
            lambda students, site, *_: (arrived.update({site: students}), given[site])[1],
            list(given),
            on_missing="skip",
        )
    assert f"left out south: {fault}" in caplog.text
    assert [one["site"] for one in records] == ["north", "west"]
    assert [student.weights["weight"].tolist() for student in arrived["west"]] == [
        [1, 1]
    ]  # those of the north: no stage is lost


def test_without_any_site_there_is_no_model():
    with pytest.raises(ValueError, match=r"sites: expected the student of one site or more, got none\. Look at"):
        run_over_sites(lambda *_: None, ["north", "south"], on_missing="skip")
