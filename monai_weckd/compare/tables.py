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

"""Write the arms of a comparison as a table for a paper: Markdown, LaTeX or CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_weckd.engines.label_task import figure_words
from monai_weckd.utils.tables import table_text

__all__ = ["arm_tables"]

_ESCAPED = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}


def arm_tables(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the arms of a comparison as ``arms.md``, ``arms.tex`` and ``arms.csv``.

    The first two are for readers: mean and standard deviation over the runs, and the reference minus the arm in points.
    The LaTeX needs the package ``booktabs``. The last one has all numbers unrounded.

    Args:
        content: what :py:func:`monai_weckd.compare.summary.summarize_comparison` returns.

    """
    finished = [arm for arm in content["arms"] if arm["metrics"]]
    metrics = figure_words(content)
    # accuracy says little beside balanced accuracy
    shown = {name: word for name, word in metrics.items() if name != "accuracy"}
    head = ["arm", "what it is", "runs", "labels", *shown.values(), f"{content['reference']} minus arm", "s per run"]
    rows = [_words(arm, list(shown)) for arm in finished]
    numbers = [_numbers(arm, list(metrics)) for arm in finished]
    return {
        "arms.md": _markdown(head, rows),
        "arms.tex": _latex(head, rows),
        "arms.csv": table_text(list(numbers[0]), numbers) if numbers else "arm\n",
    }


def _words(arm: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    figures = [arm["metrics"][name] for name in metrics]
    about = [arm["name"], arm["title"], str(arm["runs"]), f"{arm['labels']:.0f}"]
    return [*about, *map(_spread, figures), _difference(arm, metrics[0]), f"{arm['seconds']:.1f}"]


def _spread(figure: Mapping[str, float | None]) -> str:
    if figure["mean"] is None:
        return "-"
    return f"{figure['mean']:.3f}" + ("" if figure["sd"] is None else f" ± {figure['sd']:.3f}")


def _difference(arm: Mapping[str, Any], metric: str) -> str:
    if arm.get("inert"):
        return "inert"
    found = (arm["difference"] or {}).get(metric)
    if found is None:
        return "-"
    value = f"{100 * found['value']:+.1f}"
    if found["interval"] is None:
        return value
    low, high = (100 * limit for limit in found["interval"])
    return f"{value} ({low:+.1f} to {high:+.1f})"


def _numbers(arm: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    found = {key: arm[key] for key in ("name", "title", "runs", "failed", "labels", "val_labels")}
    found |= {f"{name} {key}": arm["metrics"][name][key] for name in metrics for key in ("mean", "sd", "pooled")}
    for name in metrics:
        part = (arm["difference"] or {}).get(name) or {}
        low, high = part.get("interval") or (None, None)
        found |= {f"{name} difference": part.get("value"), f"{name} low": low, f"{name} high": high}
    return {**found, **{key: arm.get(key) for key in ("seconds", "cpu_seconds", "pool_share", "inert")}}


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _latex(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, *others = ([_escaped(cell) for cell in line] for line in (head, *rows))
    lines = [
        f"\\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}",
        "\\toprule",
        " & ".join(first) + r" \\",
        "\\midrule",
        *(" & ".join(line) + r" \\" for line in others),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return "".join(_ESCAPED.get(sign, sign) for sign in text)
