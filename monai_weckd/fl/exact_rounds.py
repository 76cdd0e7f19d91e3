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

"""The rounds of the exact head: what the server asks, what a site answers, and what happens when one does not."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from monai_weckd.fl.exact import ExactHead, Sums, add_sums, label_counts, solve_exact
from monai_weckd.fl.faults import LATE

__all__ = ["ON_MISSING", "ROUNDS", "AskSites", "SiteAnswer", "check_settings", "solve_over_sites"]

ON_MISSING = ("stop", "skip")
ROUNDS = ("moments", "products", "held_out")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SiteAnswer:
    """What a site sends in a round.

    Args:
        sums: its sums, empty after a fault.
        identity: digest of network, preprocessing and classes.
        fault: why there are no sums; it names no image.

    """

    sums: Sums
    identity: str = ""
    fault: str = ""


class AskSites(Protocol):
    """Interface of what sends a question to sites and waits for their answers."""

    def __call__(self, task: str, totals: Mapping[str, Sums], sites: Sequence[str]) -> Mapping[str, SiteAnswer]:
        """Return the answers by site; a site that is late has none."""


def solve_over_sites(
    ask: AskSites, sites: Sequence[str], *, on_missing: str = "stop"
) -> tuple[ExactHead, tuple[str, ...]]:
    """Ask the sites round by round, and return the head for the labels of those that answered every time, with these.

    A site is missing if it does not answer, reports a fault, has another network or other classes than the first, or
    sends sums that are not finite. With "skip" the rounds begin anew without it, so that the head is always that of the
    pooled images of the sites that are returned.

    Args:
        ask: sends the name of a round and the sums of the earlier rounds to sites, and returns their answers.
        sites: names of the sites.
        on_missing: "stop" or "skip".

    Raises:
        ValueError: When a site is missing and ``on_missing`` is "stop", none is left, or fewer than two classes have a
            label.

    """
    while sites:
        totals: dict[str, Sums] = {}
        for task in ROUNDS:
            answers = ask(task, totals, sites)
            faults = _faults({site: answers.get(site) for site in sites})
            if faults:
                break
            totals[task] = add_sums({site: answers[site].sums for site in sites})
            label_counts(totals["moments"])
        if not faults:
            return solve_exact(*totals.values()), tuple(sites)
        text = "; ".join(f"{site}: {fault}" for site, fault in faults.items())
        if on_missing == "stop":
            raise ValueError(
                f"{task}: expected sums of all sites, got none of {text}. Mend it, or pass on_missing skip."
            )
        logger.warning("%s: left out %s", task, text)
        sites = [site for site in sites if site not in faults]
    raise ValueError("sites: expected sums of one site or more, got none. Look at the logs of the sites.")


def check_settings(sites: Sequence[str], on_missing: str, hours: float) -> None:
    """Refuse settings of a federation that cannot work.

    Args:
        sites: names of the sites.
        on_missing: "stop" or "skip".
        hours: how long to wait for the sites in a round.

    Raises:
        ValueError: When one is out of its range.

    """
    if len(set(sites)) < max(2, len(sites)) or not all(sites):
        raise ValueError(f"sites: expected two different names or more, got {list(sites)}. Pass --sites north,south.")
    if on_missing not in ON_MISSING:
        raise ValueError(f"on_missing: expected one of {ON_MISSING}, got {on_missing!r}. Pass one of them.")
    if not hours > 0:
        raise ValueError(f"hours: expected a number above 0, got {hours}. Pass how long to wait for a site.")


def _faults(answers: Mapping[str, SiteAnswer | None]) -> dict[str, str]:
    """Return what is wrong, by site."""
    faults: dict[str, str] = {}
    first: tuple[str, SiteAnswer] | None = None
    for site, answer in answers.items():
        if answer is None:
            faults[site] = LATE
        elif answer.fault:
            faults[site] = answer.fault
        elif first is not None and answer.identity != first[1].identity:
            faults[site] = f"another network, preprocessing or class list than {first[0]}"
        else:
            try:
                add_sums({**({} if first is None else {first[0]: first[1].sums}), site: answer.sums})
                first = first or (site, answer)
            except ValueError as error:
                faults[site] = str(error)
    return faults
