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

"""Write the page of the label-efficiency study: tables and curves of the kept comparisons."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.harness import ROOT
from benchmarks.label_efficiency.goals import goals

__all__ = ["RESULTS", "write_page"]

RESULTS = Path(__file__).parent / "results"
PAGE, PICTURE = ROOT / "docs" / "label_efficiency.md", ROOT / "docs" / "images" / "label_efficiency.png"
BEGIN, END = "<!-- tables of the results -->\n", "<!-- end of the tables -->\n"
CURVES = ("chain", "single_long", "fixmatch", "mean_teacher", "paper")
METRIC = "balanced_accuracy"


def load() -> list[dict[str, Any]]:
    """Return the kept comparisons, by start, set and size of a shard."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    keys = ("start", "variant", "dataset_dir", "label_fraction")
    return sorted(found, key=lambda content: [content["about"][key] for key in keys])


def points(value: float | None) -> str:
    """Return a share in points."""
    return "" if value is None else f"{100 * value:+.1f}"


def share(value: float | None, digits: int = 3) -> str:
    """Return a share without its leading zero."""
    return "" if value is None else f"{value:.{digits}f}".lstrip("0")


def rows(content: Mapping[str, Any]) -> Iterable[str]:
    """Yield the lines of one comparison's table."""
    yield "| arm | labels | balanced accuracy | chain minus arm | macro-F1 | macro AUC | ECE | seconds a run |"
    yield "|---|---|---|---|---|---|---|---|"
    for arm in content["arms"]:
        if arm["metrics"] is None:
            continue
        figures = {name: arm["metrics"][name] for name in ("balanced_accuracy", "macro_f1", "macro_auc", "ece")}
        spread = f"{share(figures[METRIC]['mean'])} ± {share(figures[METRIC]['sd'])}"
        difference = (arm["difference"] or {}).get(METRIC)
        beside = ""
        if difference is not None:
            low, high = difference["interval"] or (None, None)
            beside = f"{points(difference['value'])} ({points(low)} to {points(high)})"
        others = " | ".join(share(figures[name]["mean"]) for name in ("macro_f1", "macro_auc", "ece"))
        yield f"| {arm['title']} | {arm['labels']:.0f} | {spread} | {beside} | {others} | {arm['seconds']:.0f} |"


def tables(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the goals of each start, the ablations, and the tables of all comparisons."""
    parts = []
    whole = [content for content in found if not content["about"]["variant"]]
    for start in dict.fromkeys(content["about"]["start"] for content in whole):
        of_start = [content for content in whole if content["about"]["start"] == start]
        parts += [f"## Goals, {start.replace('_', ' ')}", "\n".join(goals(of_start))]
        if changed := list(ablations([content for content in found if content["about"]["start"] == start])):
            parts += [f"## Ablations, {start}", "\n".join(changed)]
    parts.append("## All comparisons")
    for content in whole:
        about = content["about"]
        start = about["start"].replace("_", " ")
        title = f"### {about['dataset_dir']}, {start}, {about['label_fraction']:.0%} of the labels a stage"
        date, processor = about["machine"]["date"], about["machine"]["processor"]
        runs = (
            f"{content['finished']} of {content['runs']} runs, {content['groups']} groups, {len(about['seeds'])} seeds."
        )
        settings = f"Settings: `{' '.join(about['set'])}`."
        about_it = f"{runs} {settings} {date}, {processor}."
        parts += [title, about_it, "\n".join(rows(content)), " ".join(content["verdicts"])]
    return "\n\n".join(parts) + "\n"


def ablations(found: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Yield the lines of a table that compares changed chains with the unchanged one on the same splits and seeds."""
    chains: dict[tuple[str, float], dict[str, dict[tuple[int, int, int], float]]] = {}
    for content in found:
        about = content["about"]
        runs = {
            (run["repeat"], run["fold"], run["seed"]): run["test"][METRIC]
            for run in content["results"]
            if run["arm"] == "chain"
        }
        chains.setdefault((about["dataset_dir"], about["label_fraction"]), {})[about["variant"]] = runs
    cells = {cell: variants for cell, variants in chains.items() if "" in variants and len(variants) > 1}
    names = dict.fromkeys(name for variants in cells.values() for name in variants if name)
    if not names:
        return
    heads = [f"{name}, {fraction:.0%}" for name, fraction in cells]
    yield f"| change to the chain | {' | '.join(heads)} | mean difference |"
    yield "|" + "---|" * (len(heads) + 2)
    for name in ("", *names):
        shown, differences = [], []
        for variants in cells.values():
            pairs = [(value, variants[""].get(cell)) for cell, value in variants.get(name, {}).items()]
            both = [(value, base) for value, base in pairs if base is not None]
            shown.append(share(mean(value for value, _ in both)) if both else "")
            differences += [mean(value - base for value, base in both)] if both else []
        last = points(mean(differences)) if name and differences else ""
        yield f"| {name or 'none'} | {' | '.join(shown)} | {last} |"


def draw(found: Iterable[Mapping[str, Any]]) -> None:
    """Draw balanced accuracy against the label budget, a panel for each start and set with several budgets."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for content in found:
        panels.setdefault((content["about"]["start"], content["about"]["dataset_dir"]), []).append(content)
    # one budget makes no curve
    panels = {panel: contents for panel, contents in panels.items() if len(contents) > 1}
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.6), squeeze=False)
    for axis, ((start, name), contents) in zip(axes[0], panels.items(), strict=True):
        for number, curve in enumerate(CURVES):
            known = [(a["labels"], a["metrics"][METRIC]) for c in contents for a in c["arms"] if a["name"] == curve]
            if known:
                labels, values = zip(*sorted(known, key=lambda pair: pair[0]), strict=True)
                axis.plot(labels, [value["mean"] for value in values], marker="o", label=curve, color=f"C{number}")
        top = [a["metrics"][METRIC]["mean"] for c in contents for a in c["arms"] if a["name"] == "everything"]
        if top:
            axis.axhline(sum(top) / len(top), color="gray", linestyle="--", label="everything")
        axis.set(title=f"{name}, {start}", xlabel="training labels", ylabel="balanced accuracy")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)


def write_page() -> None:
    """Write tables and curves of all kept results."""
    found = load()
    if not found:
        raise ValueError(f"results: expected comparisons in {RESULTS.name}, got none. Pass --data.")
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(head + BEGIN + "\n" + tables(found) + "\n" + END + rest.split(END)[1], encoding="utf-8")
    draw([content for content in found if not content["about"]["variant"]])
