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

"""A chain whose stages are at several sites: one model travels, and learns at each from its labels and its pool."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from monai_weckd.fl.faults import LATE, NOT_FINITE, OTHER
from monai_weckd.utils.files import state_bytes, write_atomically

__all__ = ["TEACHERS", "AskSite", "ChainProgress", "StageAnswer", "Student", "route", "run_over_sites"]

logger = logging.getLogger(__name__)

TEACHERS = ("last", "all")
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Student:
    """What a stage has left.

    Args:
        weights: the ``state_dict``.
        labels: labels of each class that the stage has learned from, in the order of the classes.

    """

    weights: Weights
    labels: list[int]


@dataclass(frozen=True, eq=False)
class StageAnswer:
    """What a site sends after its stage.

    Args:
        weights: the student's ``state_dict``, empty after a fault.
        record: ``labeled``, the number of labels; ``classes``, the labels of each class; ``value`` of the key metric on
            the site's validation, None without one.
        fault: why there are no weights; it names no image.

    """

    weights: Weights
    record: dict[str, Any]
    fault: str = ""


class AskSite(Protocol):
    """Interface of what sends students to a site and waits for its own."""

    def __call__(self, students: Sequence[Student], site: str, visit: int, again: bool) -> StageAnswer | None:
        """Return the answer, None if the site is late.

        Args:
            students: teachers of the stage, in the order in which they learned; the stage's student starts from the
                last one. None at the first site.
            site: name of the site.
            visit: 1 for a site's first stage, 2 for its second.
            again: whether an earlier server may have asked the same.

        """


@dataclass
class ChainProgress:
    """How far a chain over sites has come.

    Args:
        path: file that keeps it after each stage, so that another server goes on from there; default None: nowhere.

    """

    path: Path | None = None
    done: int = 0
    again: bool = False
    records: list[dict[str, Any]] = field(default_factory=list, init=False)
    students: dict[str, Student] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.path is None:
            return
        if self.path.exists():
            kept = torch.load(self.path, weights_only=True)
            self.done, self.records, self.again = kept["done"], kept["records"], True
            self.students = {site: Student(**student) for site, student in kept["students"].items()}
            logger.info("going on after %s", ", ".join(record["site"] for record in self.records) or "no stage")
        else:
            self.keep()

    def add(self, site: str, answer: StageAnswer, *, teachers: str) -> None:
        """Add a stage.

        Args:
            site: name of its site.
            answer: what the site sent.
            teachers: "last" forgets the earlier students; of "all", one is the latest of each site.

        """
        self.records.append({"stage": len(self.records) + 1, "site": site, **answer.record})
        others = {name: student for name, student in self.students.items() if name != site and teachers == "all"}
        self.students = {**others, site: Student(answer.weights, list(answer.record["classes"].values()))}

    def keep(self) -> None:
        """Write the file."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            students = {site: vars(student) for site, student in self.students.items()}
            content = state_bytes({"done": self.done, "records": self.records, "students": students})
            write_atomically(self.path, content)

    def remove(self) -> None:
        """Remove the file, after the last site has the model."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def route(sites: Sequence[str], *, there_and_back: bool = False) -> list[tuple[str, int]]:
    """Return the stages as site and number of its visit.

    Args:
        sites: names of the sites, in order.
        there_and_back: whether the model returns by the same way; the last site has one stage.

    Example::

        >>> route(["a", "b", "c"], there_and_back=True)
        [('a', 1), ('b', 1), ('c', 1), ('b', 2), ('a', 2)]

    """
    back = [(site, 2) for site in reversed(sites[:-1])] if there_and_back else []
    return [(site, 1) for site in sites] + back


def run_over_sites(
    ask: AskSite,
    sites: Sequence[str],
    *,
    on_missing: str = "stop",
    teachers: str = "last",
    there_and_back: bool = False,
    progress: ChainProgress | None = None,
) -> tuple[Weights, list[dict[str, Any]]]:
    """Run a stage at each site in turn, and return the weights of the last student and the records of the stages.

    A site is missing if it does not answer, reports a fault, or sends weights that are not finite or have other names,
    shapes or classes than those that arrived. With "skip" the weights that arrived there go on to the next site.

    Args:
        ask: sends students to a site and waits for its answer.
        sites: names of the sites, in order.
        on_missing: "stop" or "skip".
        teachers: "last", or "all" for the latest student of each site, see
            :py:class:`~monai_weckd.networks.ClassExperts`.
        there_and_back: see :py:func:`route`.
        progress: where to begin; it is kept after each stage. Default None: at the first site.

    Raises:
        ValueError: When a site is missing and ``on_missing`` is "stop", or every site is.

    """
    progress = ChainProgress() if progress is None else progress
    for site, visit in route(sites, there_and_back=there_and_back)[progress.done :]:
        students = list(progress.students.values())
        answer = ask(students, site, visit, progress.again)
        fault = _fault(answer, progress)
        if fault and on_missing == "stop":
            raise ValueError(f"sites: expected a student of {site}, got {fault}. Mend it, or pass --on_missing skip.")
        if fault or answer is None:
            logger.warning("left out %s: %s", site, fault)
        else:
            progress.add(site, answer, teachers=teachers)
        progress.done += 1
        progress.keep()
    if not progress.records:
        raise ValueError("sites: expected the student of one site or more, got none. Look at the logs of the sites.")
    *_, last = progress.students.values()
    return last.weights, progress.records


def _fault(answer: StageAnswer | None, progress: ChainProgress) -> str:
    if answer is None:
        return LATE
    if answer.fault:
        return answer.fault
    for student in progress.students.values():
        if _shapes(answer.weights) != _shapes(student.weights):
            return OTHER
    if progress.records and list(answer.record["classes"]) != list(progress.records[0]["classes"]):
        return OTHER
    if not all(value.isfinite().all() for value in answer.weights.values()):
        return NOT_FINITE
    return ""


def _shapes(weights: Weights) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}
