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

"""Draw the figures of a report."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from monai_weckd.metrics import ReliabilityBin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figure_bytes", "learning_curves_svg", "new_figure", "reliability_svg", "svg_bytes"]

# Okabe and Ito's palette: told apart by readers with any form of color blindness, and by line style in gray print.
_BLUE, _ORANGE, _GREEN, _BLACK, _GRAY = "#0072B2", "#D55E00", "#009E73", "#222222", "#777777"
# metadata that would make two files of the same figure differ
_UNDATED: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
_LOSSES = (
    ("loss", "total", _BLACK, "-"),
    ("task_loss", "task", _BLUE, "--"),
    ("distillation_loss", "distillation", _ORANGE, "-."),
    ("attention_loss", "attention", _GREEN, ":"),
)
_VALIDATION = (
    ("val_balanced_accuracy", "balanced accuracy", _BLUE, "-"),
    ("val_accuracy", "accuracy", _ORANGE, "--"),
    ("val_macro_auc", "macro AUC", _GREEN, ":"),
)


def learning_curves_svg(epochs: Sequence[Mapping[str, Any]], *, stages: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw losses, validation if there is any, and temperature over the whole chain, with the stages marked.

    Args:
        epochs: the ``epochs`` of ``history.json``, at least one.
        stages: the ``stages`` of ``chain.json``. ``best_epoch`` counts within the stage, as ``stage_epoch`` does.

    Returns:
        An SVG document.
    """
    validated = [{**epoch, **epoch["val"]} for epoch in epochs if epoch["val"]]
    heights = (3, 3, 1.5) if validated else (3, 1.5)
    with new_figure(6.4, 0.9 * sum(heights)) as figure:
        panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        _draw_curves(panels[0], epochs, _LOSSES)
        panels[0].set(ylabel="training loss", ylim=(0, None))
        if validated:
            _draw_curves(panels[1], validated, _VALIDATION)
            _draw_best_epochs(panels[1], validated, stages)
            panels[1].set(ylabel="validation", ylim=(0, 1.03))
        # Without a teacher the temperature acts on nothing.
        guided = [epoch for epoch in epochs if epoch["distillation_loss"] is not None]
        _draw_curves(panels[-1], guided, (("temperature", "temperature", _BLACK, "-"),))
        panels[-1].set(ylabel="temperature", ylim=(0, None), xlabel="epoch of the chain")
        for axes in (axes for axes in panels[:-1] if axes.lines):
            axes.legend(
                loc="upper left", bbox_to_anchor=(0, -0.03), ncols=4, frameon=False, handlelength=1.6, columnspacing=1.2
            )
        _mark_stages(panels, epochs, stages)
        figure.align_ylabels()
        return svg_bytes(figure)


def reliability_svg(
    bins: Sequence[ReliabilityBin], *, share: str = "accuracy", probability: str = "top probability"
) -> bytes:
    """Draw accuracy against the top probability, with 95% Wilson intervals, over the number of items by bin.

    Args:
        bins: the bins that hold items, as :func:`monai_weckd.metrics.reliability_bins` returns them.
        share: name of what is drawn upwards.
        probability: name of what is drawn to the right.

    Returns:
        An SVG document.
    """
    with new_figure(4.4, 5.0) as figure:
        diagram, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        diagram.plot([0, 1], [0, 1], color=_GRAY, linestyle="--", linewidth=1)
        limits = [_wilson(item.accuracy, item.count) for item in bins]
        confidence, accuracy = [item.confidence for item in bins], [item.accuracy for item in bins]
        diagram.vlines(confidence, *zip(*limits, strict=True), color=_BLUE, linewidth=1)
        diagram.plot(confidence, accuracy, color=_BLUE, marker="o", markersize=5, linestyle="none")
        diagram.set(ylabel=share, xlim=(0, 1), ylim=(-0.02, 1.02))
        for item in bins:
            histogram.bar(item.lower, item.count, width=item.upper - item.lower, align="edge", color=_BLUE, alpha=0.6)
        histogram.set(ylabel="items", xlabel=probability)
        return svg_bytes(figure)


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure in the style of all pages.

    Args:
        width: in inches.
        height: in inches.

    Raises:
        ImportError: When ``matplotlib`` is not installed.

    """
    # Imported here because matplotlib is an extra. A bare Figure, since pyplot keeps a global list of figures.
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "matplotlib: expected for the report, got no such package. Install monai-weckd[report]."
        ) from error
    # The hash salt makes element ids, and so the file, the same for the same numbers.
    style: dict[Any, Any] = {"svg.hashsalt": "monai_weckd", "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        yield Figure(figsize=(width, height), layout="constrained")


def svg_bytes(figure: Figure) -> bytes:
    """Return a figure as an SVG document, the same for the same figure.

    Args:
        figure: the figure.

    """
    return figure_bytes(figure, "svg")


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """Return a figure as a file, the same for the same figure.

    Args:
        figure: the figure.
        kind: "svg", "pdf" or "png" (300 dots per inch).

    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=300, metadata=_UNDATED[kind])
    return buffer.getvalue()


def _draw_curves(axes: Axes, records: Sequence[Mapping[str, Any]], curves: Sequence[tuple[str, str, str, str]]) -> None:
    for key, name, color, style in curves:
        known = [record for record in records if record.get(key) is not None]
        # One line for each stage: nothing was trained between the end of one and the start of the next.
        for stage in sorted({record["stage"] for record in known}):
            points = [(record["epoch"], record[key]) for record in known if record["stage"] == stage]
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=color, linestyle=style, linewidth=1.5, marker=".", markersize=3, label=name)
            name = "_nolegend_"


def _draw_best_epochs(axes: Axes, records: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]]) -> None:
    # The metric of the gate is also the one that chose the epoch.
    kept = {(stage["stage"], stage["best_epoch"]): str(stage["gate"]["metric"]) for stage in stages}
    chosen = [(record, kept.get((record["stage"], record["stage_epoch"]), "")) for record in records]
    points = [(record["epoch"], record[metric]) for record, metric in chosen if metric in record]
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=_BLACK, marker="o", markerfacecolor="white", linestyle="none", label="epoch kept")


def _mark_stages(
    panels: Sequence[Axes], epochs: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]]
) -> None:
    from matplotlib.ticker import MaxNLocator

    rejected = {stage["stage"] for stage in stages if not stage["accepted"]}
    for stage in sorted({epoch["stage"] for epoch in epochs}):
        members = [epoch["epoch"] for epoch in epochs if epoch["stage"] == stage]
        start, end = min(members) - 0.5, max(members) + 0.5
        for axes in panels:
            axes.axvline(start, color=_GRAY, linewidth=0.8)
            if stage in rejected:
                axes.axvspan(start, end, color="#eeeeee", linewidth=0)
        name = f"stage {stage}\nrejected" if stage in rejected else f"stage {stage}"
        panels[0].annotate(
            name, ((start + end) / 2, 1.02), xycoords=("data", "axes fraction"), ha="center", va="bottom"
        )
    panels[0].set_xlim(epochs[0]["epoch"] - 0.5, epochs[-1]["epoch"] + 0.5)
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))


def _wilson(fraction: float, count: int) -> tuple[float, float]:
    # Wilson (1927): the interval of a fraction that stays sensible for few items and near 0 and 1.
    z = 1.96
    center = fraction + z * z / (2 * count)
    spread = z * math.sqrt(fraction * (1 - fraction) / count + z * z / (4 * count * count))
    return (center - spread) / (1 + z * z / count), (center + spread) / (1 + z * z / count)
