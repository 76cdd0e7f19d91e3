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

"""Summarize a comparison as JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_weckd.compare.arms import ARMS
from monai_weckd.compare.running import ArmRun
from monai_weckd.compare.statistics import ArmDifference, RunPredictions, arm_difference, arm_summary, verdict
from monai_weckd.compare.store import RunStore
from monai_weckd.engines.label_task import figure_words

if TYPE_CHECKING:
    from monai_weckd.compare.training import ComparedBundle
    from monai_weckd.engines.label_task import LabelTask

__all__ = ["comparison_csv", "summarize_comparison"]

# users choose the reference of the verdict, but its control is fixed in advance: the hardest fair one, in order of
# preference, if heads are solved (True) and if they are trained (False)
_CONTROLS = {True: ("solved", "single_long", "single"), False: ("single_long", "single")}
# other questions: what the choice of labels is worth, what a trained chain does beyond it, what solving is worth, and
# what a teacher is worth to a small network
_QUESTIONS = (
    ("single_long+labels", "single_long"),
    ("chain", "single_long+labels"),
    ("solved", "single_long"),
    ("compact", "single_long+labels"),
)
# networks whose probabilities differ by no more than this count as one
_SAME = 1e-6


def summarize_comparison(
    runs: Sequence[ArmRun], bundle: ComparedBundle, store: RunStore, *, reference: str = "chain"
) -> dict[str, Any]:
    """Summarize the results of a comparison, finished or not.

    Args:
        runs: all runs of the comparison.
        bundle: the bundle.
        store: store of the results.
        reference: the arm that the others are compared with, default "chain".

    Returns:
        The content of ``compare.json``: the verdicts in words, each arm with its figures and its difference "reference
        minus arm", the failures, and every result.

    """
    results = {(run.arm.name, run.cell): store.read(run.arm.name, run.cell, digest=run.digest) for run in runs}
    done = [result for result in results.values() if result is not None]
    names = list(dict.fromkeys(run.arm.name for run in runs))
    predictions = {
        name: [
            store.predictions(name, cell, bundle.task)
            for (arm, cell), result in results.items()
            if arm == name and result is not None and "error" not in result
        ]
        for name in names
    }
    inert = {name: _inertness(name, done, predictions) for name in names}
    competing = {name: runs for name, runs in predictions.items() if inert[name] is None}
    differences = {name: _difference(competing, reference, name, bundle) for name in names}
    return {
        "format": 1,
        "classes": list(bundle.datalist.classes),
        **bundle.task.about,
        "items": len(bundle.datalist.items),
        "groups": len(set(bundle.groups.values())),
        "runs": len(results),
        "finished": sum("error" not in result for result in done),
        "reference": reference,
        "preparation_seconds": sum(result.get("preparation_seconds", 0.0) for result in done),
        "verdicts": [*_verdicts(competing, reference, bundle), *_inert_sentences(inert)],
        "arms": [
            {
                **_arm(name, [result for result in done if result["arm"] == name], predictions[name], bundle.task),
                "inert": inert[name],
                "difference": {key: asdict(part) for key, part in (differences[name] or {}).items()} or None,
            }
            for name in names
        ],
        "failures": [result for result in done if "error" in result],
        "results": [result for result in done if "error" not in result],
    }


def comparison_csv(content: Mapping[str, Any]) -> str:
    """Return a table with a row for each stage of each finished run; the last row of a run is its final network.

    Args:
        content: result of :py:func:`summarize_comparison`.

    """
    metrics = figure_words(content)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        [
            "arm",
            "repeat",
            "fold",
            "seed",
            "stage",
            "labels",
            "accepted",
            *metrics,
            "seconds",
            "cpu_seconds",
            "pool_share",
        ]
    )
    for result in content["results"]:
        place = [result[key] for key in ("arm", "repeat", "fold", "seed")]
        for stage in result["stages"]:
            figures = [stage["test"][name] for name in metrics]
            writer.writerow(
                [
                    *place,
                    stage["stage"],
                    stage["labeled"],
                    stage["accepted"],
                    *figures,
                    round(stage["seconds"], 3),
                    "",
                    "",
                ]
            )
        figures = [result["test"][name] for name in metrics]
        cost = [round(result[key], 3) for key in ("seconds", "cpu_seconds")]
        writer.writerow([*place, "final", result["labels"], "", *figures, *cost, result.get("pool_share")])
    return text.getvalue()


def _arm(
    name: str, results: Sequence[Mapping[str, Any]], runs: Sequence[RunPredictions], task: LabelTask
) -> dict[str, Any]:
    finished = [result for result in results if "error" not in result]
    about = {"name": name, "title": ARMS[name].title, "uses_pool": ARMS[name].uses_pool}
    counts = {"runs": len(finished), "failed": len(results) - len(finished)}
    keys = ("labels", "val_labels", "seconds", "cpu_seconds")
    means = {key: float(np.mean([result[key] for result in finished])) if finished else None for key in keys}
    shares = [share for result in finished if (share := result.get("pool_share")) is not None]
    return {
        **about,
        **counts,
        **means,
        "pool_share": float(np.mean(shares)) if shares else None,
        "metrics": arm_summary(runs, task) if runs else None,
        "stages": _stages(finished, task),
    }


def _inertness(
    name: str, results: Sequence[Mapping[str, Any]], predictions: Mapping[str, Sequence[RunPredictions]]
) -> str | None:
    """Return why the pool changed nothing in any run of an arm; None if it changed something or the arm has no run."""
    shares = [result.get("pool_share") for result in results if result["arm"] == name and "error" not in result]
    if shares and not any(share is None or share > 0 for share in shares):
        return "no image of the pool ever passed the threshold"
    plain = ARMS[name].without_pool
    theirs = {run.cell: run.probabilities for run in predictions.get(plain or "", ())}
    pairs = [(run.probabilities, theirs[run.cell]) for run in predictions[name] if run.cell in theirs]
    if pairs and all(np.abs(ours - other).max() <= _SAME for ours, other in pairs):
        return f"its predictions are those of {plain}"
    return None


def _inert_sentences(inert: Mapping[str, str | None]) -> Iterator[str]:
    for name, reason in inert.items():
        if reason is not None:
            yield f"{name} was inert ({reason}), so the verdict leaves it out."


def _stages(results: Sequence[Mapping[str, Any]], task: LabelTask) -> list[dict[str, Any]]:
    numbers = sorted({stage["stage"] for result in results for stage in result["stages"]})
    found = []
    for number in numbers:
        stages = [stage for result in results for stage in result["stages"] if stage["stage"] == number]
        means = {
            name: float(np.mean(values))
            for name in task.figures
            if (values := [stage["test"][name] for stage in stages if stage["test"][name] is not None])
        }
        labeled = float(np.mean([stage["labeled"] for stage in stages]))
        accepted = sum(stage["accepted"] for stage in stages)
        found.append({"stage": number, "labeled": labeled, "runs": len(stages), "accepted": accepted, "test": means})
    return found


def _difference(
    predictions: Mapping[str, Sequence[RunPredictions]], first: str, second: str, bundle: ComparedBundle
) -> dict[str, ArmDifference] | None:
    """Return the first arm minus the second by metric; None if they have no common runs."""
    ours, theirs = predictions.get(first, ()), predictions.get(second, ())
    if first == second or not {run.cell for run in ours} & {run.cell for run in theirs}:
        return None
    return arm_difference(ours, theirs, bundle.task, groups=bundle.groups)


def _verdicts(
    predictions: Mapping[str, Sequence[RunPredictions]], reference: str, bundle: ComparedBundle
) -> Iterator[str]:
    """Yield the verdict on the reference, and those on the other questions of which both arms have runs."""
    controls = [name for name in _CONTROLS[bundle.solved] if name != reference]
    pairs = [(reference, next((name for name in controls if predictions.get(name)), controls[0]))]
    pairs += [pair for pair in _QUESTIONS if all(predictions.get(name) for name in pair)]
    metric, word = next(iter(bundle.task.figures.items()))
    for first, second in dict.fromkeys(pairs):
        difference = _difference(predictions, first, second, bundle)
        if difference is not None and metric in difference:
            titles = {"arm": ARMS[first].title, "control": ARMS[second].title}
            yield verdict(difference[metric], **titles, metric=word)
        elif first == reference:
            yield f"No verdict: it needs finished runs of {first!r} and {second!r} on the same splits."
