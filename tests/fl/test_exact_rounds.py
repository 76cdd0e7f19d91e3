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
from test_exact import assert_same, divide, draw, pooled, rounds

from monai_weckd.fl import ExactSite, solve_exact
from monai_weckd.fl.exact_rounds import SiteAnswer, check_settings, solve_over_sites
from monai_weckd.fl.messages import to_arrays, to_tensors


class Sites:
    """Sites in memory; a fault replaces the answer of a site in a round."""

    def __init__(self, parts, faults=None):
        self.sites = {name: ExactSite(*part[:2], list(part[2]), num_classes=4) for name, part in parts.items()}
        self.faults = faults or {}
        self.asked = []

    def __call__(self, task, totals, sites):
        self.asked.append((task, tuple(sites)))
        # as they travel
        totals = to_tensors(dict(reversed(to_arrays(totals).items())))
        answers = {site: SiteAnswer(getattr(self.sites[site], task)(*totals.values()), "same") for site in sites}
        for (site, when), change in self.faults.items():
            if site in answers and when == task:
                answers[site] = change(answers[site])
        return {site: answer for site, answer in answers.items() if answer is not None}


def late(answer):
    return None


def failed(answer):
    return SiteAnswer({}, fault="ValueError, see its log")


def other(answer):
    return SiteAnswer(answer.sums, "other")


def not_finite(answer):
    return SiteAnswer({name: value * math.nan for name, value in answer.sums.items()}, "same")


def more_classes(answer):
    return SiteAnswer({name: value.repeat(2) for name, value in answer.sums.items()}, "same")


FAULTS = {
    late: "no answer in time",
    failed: "ValueError, see its log",
    other: "another network, preprocessing or class list than site 0",
    not_finite: "sums: expected finite numbers from site 1",
    more_classes: "sums: expected those of site 1 to have the shapes of site 0",
}


def test_the_head_is_that_of_pooled_images():
    data = draw()
    head, sites = solve_over_sites(Sites(divide(data, 3)), ["site 0", "site 1", "site 2"])
    assert_same(head, pooled(data))
    assert sites == ("site 0", "site 1", "site 2")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_missing_site_stops_the_rounds_and_is_named(fault):
    sites = Sites(divide(draw(), 3), {("site 1", "moments"): fault})
    with pytest.raises(ValueError, match=f"moments: expected sums of all sites, got none of site 1: {FAULTS[fault]}"):
        solve_over_sites(sites, list(sites.sites))
    assert len(sites.asked) == 1


@pytest.mark.parametrize("when", ["moments", "products", "held_out"])
@pytest.mark.parametrize("fault", [late, failed, not_finite])
def test_without_a_missing_site_the_head_is_that_of_the_others(fault, when, caplog):
    parts = divide(draw(), 3)
    sites = Sites(parts, {("site 1", when): fault})
    with caplog.at_level(logging.WARNING):
        head, left = solve_over_sites(sites, list(parts), on_missing="skip")
    assert left == ("site 0", "site 2")
    assert f"{when}: left out site 1: {FAULTS[fault]}" in caplog.text
    assert sites.asked[-3:] == [(task, left) for task in ("moments", "products", "held_out")]
    assert_same(head, solve_exact(*rounds({site: parts[site] for site in left})))


def test_without_any_site_there_is_no_head():
    parts = divide(draw(), 2)
    sites = Sites(parts, {(site, "products"): late for site in parts})
    with pytest.raises(ValueError, match=r"sites: expected sums of one site or more, got none\. Look at the logs"):
        solve_over_sites(sites, list(parts), on_missing="skip")


def test_labels_of_one_class_stop_the_rounds_before_a_site_computes_more():
    parts = {site: (part[0], part[1].clamp(max=0), part[2]) for site, part in divide(draw(), 2).items()}
    sites = Sites(parts)
    with pytest.raises(ValueError, match=r"labels: expected labels of two classes or more over all sites, got \["):
        solve_over_sites(sites, list(parts), on_missing="skip")
    assert len(sites.asked) == 1


def test_settings_are_checked():
    check_settings(["a", "b"], "skip", 0.5)
    with pytest.raises(ValueError, match=r"sites: expected two different names or more, got \['a'\]\. Pass --sites"):
        check_settings(["a"], "skip", 1)
    with pytest.raises(ValueError, match=r"sites: expected two different names or more, got \['a', 'b', 'a'\]"):
        check_settings(["a", "b", "a"], "skip", 1)
    with pytest.raises(ValueError, match=r"on_missing: expected one of \('stop', 'skip'\), got 'wait'\. Pass one"):
        check_settings(["a", "b"], "wait", 1)
    with pytest.raises(ValueError, match=r"hours: expected a number above 0, got nan\. Pass how long to wait"):
        check_settings(["a", "b"], "stop", math.nan)
