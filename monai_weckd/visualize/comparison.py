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

"""Render the comparison of several trainings as an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_weckd.visualize.figures import figure_bytes, new_figure
from monai_weckd.visualize.report import METRIC_NAMES, data_uri, page_template

__all__ = ["check_page", "comparison_figures", "comparison_page", "draw_differences", "draw_stages"]

_PAGE = "compare.html.jinja"
_FINDING_NAMES = {
    "macro_auc": "Macro AUC",
    "macro_average_precision": "Average precision",
    "macro_f1": "F1",
    "macro_ece": "Calibration error (ECE)",
}
# the two metrics whose differences stand beside those of the first one
_BESIDE = {"balanced_accuracy": ("accuracy", "macro_auc"), "macro_auc": ("macro_average_precision", "macro_f1")}
_BLUE, _ORANGE, _GREEN, _PURPLE, _BLACK, _GRAY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#222222", "#777777"
_STYLES = ((_BLUE, "-", "o"), (_ORANGE, "--", "s"), (_GREEN, "-.", "^"), (_PURPLE, ":", "D"), (_BLACK, "-", "v"))


def check_page() -> None:
    """Raise an error if a page cannot be written.

    Raises:
        ImportError: When ``jinja2`` or ``matplotlib`` is not installed.

    """
    page_template(_PAGE)
    with new_figure(1, 1):
        pass


def comparison_page(content: Mapping[str, Any], *, about: Mapping[str, Any]) -> str:
    """Return a self-contained page about a comparison.

    Args:
        content: what :py:func:`monai_weckd.compare.summary.summarize_comparison` returns.
        about: the settings to show, by name; ``synthetic`` says whether the images are synthetic.

    Raises:
        ImportError: When ``jinja2`` or ``matplotlib`` is not installed.

    """
    names = metric_names(content)
    metric = next(iter(names))
    finished, compared, chains = _drawn(content, metric)
    return page_template(_PAGE).render(
        content=content,
        about=about,
        finished=finished,
        compared=compared,
        chains=chains,
        metric_names=names,
        main=metric,
        word=_word(metric),
        others=_BESIDE[metric],
        differences=data_uri(draw_differences(compared, content["reference"], metric), "svg+xml") if compared else None,
        stages=data_uri(draw_stages(chains, finished, metric), "svg+xml") if chains else None,
    )


def metric_names(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the metrics of a comparison, by key; first the one that it is about.

    Args:
        content: what :py:func:`monai_weckd.compare.summary.summarize_comparison` returns.

    """
    return _FINDING_NAMES if content.get("findings") else METRIC_NAMES


def comparison_figures(content: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the figures of a comparison as files for a paper, by name; none without results.

    Args:
        content: what :py:func:`monai_weckd.compare.summary.summarize_comparison` returns.

    Raises:
        ImportError: When ``matplotlib`` is not installed.

    """
    metric = next(iter(metric_names(content)))
    finished, compared, chains = _drawn(content, metric)
    found = {}
    for kind in ("png", "pdf", "svg"):
        if compared:
            found[f"differences.{kind}"] = draw_differences(compared, content["reference"], metric, kind=kind)
        if chains:
            found[f"stages.{kind}"] = draw_stages(chains, finished, metric, kind=kind)
    return found


def _drawn(content: Mapping[str, Any], metric: str) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the arms with results, those of them with a difference, and those with several stages."""
    finished = [arm for arm in content["arms"] if arm["metrics"]]
    compared = [arm for arm in finished if metric in (arm["difference"] or {})]
    return finished, compared, [arm for arm in finished if len(arm["stages"]) > 1]


def draw_differences(
    arms: Sequence[Mapping[str, Any]], reference: str, metric: str = "balanced_accuracy", *, kind: str = "svg"
) -> bytes:
    """Draw how far the reference is above each other arm in a metric, with 95 % intervals.

    Args:
        arms: arms with a ``difference``, at least one.
        reference: name of the reference.
        metric: key of the metric, default "balanced_accuracy".
        kind: see :py:func:`monai_weckd.visualize.figures.figure_bytes`, default "svg".

    Returns:
        The content of a file.

    """
    with new_figure(6.8, 1.1 + 0.32 * len(arms)) as figure:
        axes = figure.subplots()
        axes.axvline(0, color=_GRAY, linewidth=1)
        for row, arm in enumerate(reversed(arms)):
            difference = arm["difference"][metric]
            if difference["interval"] is not None:
                axes.hlines(row, *(100 * limit for limit in difference["interval"]), color=_BLUE, linewidth=1.5)
            axes.plot(100 * difference["value"], row, color=_BLUE, marker="o", markersize=6)
        axes.set_yticks(range(len(arms)), [arm["name"] for arm in reversed(arms)])
        axes.set(ylim=(-0.6, len(arms) - 0.4), xlabel=f"{reference} minus arm, points of {_word(metric)}")
        return figure_bytes(figure, kind)


def draw_stages(
    chains: Sequence[Mapping[str, Any]],
    finished: Sequence[Mapping[str, Any]],
    metric: str = "balanced_accuracy",
    *,
    kind: str = "svg",
) -> bytes:
    """Draw the mean test metric of each stage over its number of labels, and the single models as lines.

    Args:
        chains: arms of several stages, at least one.
        finished: all arms with results.
        metric: key of the metric, default "balanced_accuracy".
        kind: see :py:func:`monai_weckd.visualize.figures.figure_bytes`, default "svg".

    Returns:
        The content of a file.

    """
    with new_figure(6.8, 3.6) as figure:
        axes = figure.subplots()
        for index, arm in enumerate(chains):
            color, line, marker = _STYLES[index % len(_STYLES)]
            numbers = [stage["stage"] for stage in arm["stages"]]
            values = [stage["test"].get(metric) for stage in arm["stages"]]
            axes.plot(numbers, values, color=color, linestyle=line, marker=marker, markersize=5, label=arm["name"])
        for arm in finished:
            if arm["name"] in ("single_long", "everything", "solved", "solved_everything"):
                value = arm["metrics"][metric]["mean"]
                axes.axhline(value, color=_GRAY, linewidth=1, linestyle="--")
                axes.annotate(
                    arm["name"], (1, value), xycoords=("axes fraction", "data"), color=_GRAY, ha="right", va="bottom"
                )
        axes.set_xticks(range(1, 1 + max(len(arm["stages"]) for arm in chains)))
        axes.set(xlabel="stage", ylabel=f"{_word(metric)}, test")
        figure.legend(loc="outside lower center", ncols=5, frameon=False)
        return figure_bytes(figure, kind)


def _word(metric: str) -> str:
    name = {**METRIC_NAMES, **_FINDING_NAMES}[metric]
    return name[0].lower() + name[1:]
