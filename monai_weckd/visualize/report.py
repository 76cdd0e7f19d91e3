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

"""Render the HTML report of a run."""

from __future__ import annotations

import base64
import json
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_weckd.metrics import bootstrap_intervals, classification_metrics, confusion_counts, reliability_bins
from monai_weckd.utils.records import (
    check_keys,
    probability_columns,
    read_json,
    read_probabilities,
    read_sealed,
    read_text,
)
from monai_weckd.utils.tables import read_table
from monai_weckd.visualize.figures import learning_curves_svg, reliability_svg
from monai_weckd.visualize.findings import finding_answers, read_findings, tested_findings

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["data_uri", "page_template", "read_predictions", "write_report"]

logger = logging.getLogger(__name__)

METRIC_NAMES = {
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "macro_auc": "Macro AUC",
    "ece": "Calibration error (ECE)",
}
_MEASURED = {"val": "Validation", "out_of_fold": "Cross-validation", "test": "Test"}
_PLAN_KEYS = ("settings", "shard_sizes", "classes", "test", "skipped", "unused")
_CHAIN_KEYS = ("format", "classes", "seed", "label_budget", "ledger", "settings", "stages", "final")
_STAGE_KEYS = (
    *("stage", "teacher", "labeled", "groups", "pool", "epochs", "best_epoch"),
    *("seconds", "val", "test", "accepted", "gate", "checkpoint"),
)
_EPOCH_KEYS = ("epoch", "stage", "stage_epoch", "loss", "distillation_loss", "temperature", "val")
_ERROR_KEYS = ("id", "label", "predicted", "probability", "file")


def write_report(output_dir: str | Path) -> Path:
    """Write ``report.html``, one self-contained page about a chain run, from the files of its output folder.

    The page opens offline: pictures are inline, and its content security policy forbids it to load anything.

    Args:
        output_dir: folder with ``plan.json``, ``chain.json``, ``history.json``, ``predictions.csv`` and, where
            :func:`save_error_gallery` has run, ``errors/errors.json`` with its pictures.

    Returns:
        The path of the page.

    Raises:
        ValueError: When a file is missing or corrupt, or the files are from different runs.
        ImportError: When ``jinja2`` or ``matplotlib`` is not installed.
    """
    page_template("report.html.jinja")  # before anything is read
    folder = Path(output_dir)
    plan = read_sealed(folder / "plan.json", _PLAN_KEYS)
    chain = read_sealed(folder / "chain.json", _CHAIN_KEYS)
    _check_chain(chain, plan)
    epochs = read_sealed(folder / "history.json", ("epochs",))["epochs"]
    for epoch in epochs:
        check_keys(epoch, _EPOCH_KEYS, where="history.json: epochs")
    shown = _findings_page(folder, chain) if chain.get("findings") else _classes_page(folder, chain, plan, epochs)
    path = folder / "report.html"
    # A file name that is not UTF-8 reaches this page with lone surrogates, which cannot be encoded.
    path.write_text(shown[0], encoding="utf-8", errors="backslashreplace")
    logger.info("%s. Report: %s", shown[1], path)
    return path


def _findings_page(folder: Path, chain: Mapping[str, Any]) -> tuple[str, str]:
    """Return the page of a run with several findings an image, and its result in words."""
    rows = [row for row in read_findings(folder / "predictions.csv", chain["classes"]) if row["split"] == "test"]
    test = tested_findings(rows, chain)
    for finding in test["findings"] if test else ():
        picture = (
            reliability_svg(finding["bins"], share="present", probability="probability") if finding["bins"] else b""
        )
        finding["picture"] = data_uri(picture, "svg+xml")
    stage = chain["final"]["stage"]
    page = page_template("findings.html.jinja").render(
        chain=chain,
        final=next(one for one in chain["stages"] if one["stage"] == stage),
        measured=_measured(chain),
        test=test,
        gallery=_gallery_view(folder / "errors", rows, finding_answers(rows, chain)),
    )
    text = f"the model of stage {stage} was not tested, because no test images were held out"
    if test:
        text = f"the model of stage {stage} has a macro AUC of {_number_text(test['metrics']['macro_auc'])} on test"
    return page, text


def _measured(chain: Mapping[str, Any]) -> dict[str, str]:
    return {name: key for key, name in _MEASURED.items() if any(stage.get(key) for stage in chain["stages"])}


def _classes_page(
    folder: Path, chain: Mapping[str, Any], plan: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]
) -> tuple[str, str]:
    """Return the page of a run with one class an image, and its result in words."""
    rows = [row for row in read_predictions(folder / "predictions.csv", chain["classes"]) if row["split"] == "test"]
    gallery = _gallery_view(
        folder / "errors", rows, {(row["id"], None, row["label"], row["predicted"]) for row in rows}
    )
    page = page_template("report.html.jinja").render(
        chain=chain,
        plan=plan,
        plan_settings={**plan["settings"], "shard_sizes": plan["shard_sizes"]},
        final=next(stage for stage in chain["stages"] if stage["stage"] == chain["final"]["stage"]),
        # a run that was stopped has a prediction but no actual costs to compare
        cost=chain["cost"] if "actual" in (chain.get("cost") or {}) else None,
        metric_names=METRIC_NAMES,
        measured=_measured(chain),
        test=_test_view(rows, chain),
        curves=_curves_view(epochs, chain["stages"]),
        gallery=gallery,
    )
    return page, _result_text(chain, rows)


def _result_text(chain: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> str:
    """Return the test result in words."""
    stage, measured = chain["final"]["stage"], chain["final"]["test"]
    if not measured:
        return f"the model of stage {stage} was not tested, because no test images were held out"
    right = sum(row["label"] == row["predicted"] for row in rows)
    balanced = _number_text(measured.get("balanced_accuracy"))
    return (
        f"the model of stage {stage} is right on {right} of {len(rows)} test images: "
        f"accuracy {_number_text(measured['accuracy'])}, balanced accuracy {balanced}"
    )


def page_template(name: str) -> Template:
    """Return the template of a page; it escapes all inserted values.

    Args:
        name: name of the file beside this one.

    Raises:
        ImportError: When ``jinja2`` is not installed.

    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise ImportError(
            "jinja2: expected for the report, got no such package. Install monai-weckd[report]."
        ) from error
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number_text, duration=_duration_text, setting=_setting_text)
    return environment.get_template(name)


def _check_chain(chain: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    if chain["format"] != 1:
        raise ValueError(
            f"chain.json: expected format 1, got {chain['format']!r}. Use the version of monai_weckd that wrote it."
        )
    if chain["classes"] != plan["classes"]:
        raise ValueError(
            f"chain.json: expected the classes of plan.json, {plan['classes']}, got {chain['classes']}."
            " Keep the files of one run together."
        )
    check_keys(chain["label_budget"], ("train", "val"), where="chain.json: label_budget")
    check_keys(chain["final"], ("stage", "test"), where="chain.json: final")
    for entry in chain["ledger"]:
        check_keys(entry, ("purpose", "stage", "labels"), where="chain.json: ledger")
    for stage in chain["stages"]:
        check_keys(stage, _STAGE_KEYS, where="chain.json: stages")
        check_keys(stage["gate"], ("metric", "value", "previous", "tolerance"), where="chain.json: gate")
    numbers = [stage["stage"] for stage in chain["stages"]]
    if chain["final"]["stage"] not in numbers:
        raise ValueError(
            f"chain.json: expected the final stage among {numbers}, got {chain['final']['stage']!r}."
            " Write the file again."
        )


def read_predictions(path: Path, classes: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of ``predictions.csv``, with every value as text.

    Args:
        path: the file.
        classes: class names.

    Raises:
        ValueError: When it is not there, lacks a column, or has another class.

    """
    columns = ["id", "split", "label", "predicted", *probability_columns(classes)]
    # a file name may contain bytes that are not UTF-8
    text = read_text(path, errors="surrogateescape")
    try:
        rows = read_table(text, columns)
    except ValueError as error:
        raise ValueError(f"predictions.csv: {error}") from error
    for row in rows:
        for column in ("label", "predicted"):
            if row[column] not in classes:
                raise ValueError(
                    f"predictions.csv: expected one of the classes {list(classes)} as {column} of {row['id']!r},"
                    f" got {row[column]!r}. Write the file again."
                )
    return rows


def _test_view(rows: Sequence[Mapping[str, str]], chain: Mapping[str, Any]) -> dict[str, Any] | None:
    if not rows and chain["final"]["test"]:
        raise ValueError("predictions.csv: expected the test items, got none. Keep the files of one run together.")
    if not rows:
        return None
    classes = chain["classes"]
    labels = [classes.index(row["label"]) for row in rows]
    predicted = [classes.index(row["predicted"]) for row in rows]
    groups = [row.get("group") or row["id"] for row in rows]
    try:
        probabilities = [read_probabilities(row, classes) for row in rows]
        metrics = classification_metrics(probabilities, labels)
    except (TypeError, ValueError) as error:
        raise ValueError(f"predictions.csv: {error}") from error
    _check_final(metrics["accuracy"], chain["final"]["test"])
    bins = reliability_bins(probabilities, labels)
    return {
        "count": len(rows),
        "groups": len(set(groups)),
        "metrics": metrics,
        "intervals": bootstrap_intervals(probabilities, labels, groups=groups),
        "confusion": _confusion_view(labels, predicted, classes),
        "reliability": data_uri(reliability_svg(bins), "svg+xml"),
        "bins": bins,
    }


def _check_final(accuracy: float | None, recorded: Mapping[str, Any] | None) -> None:
    # The interval comes from predictions.csv, the figures by stage from chain.json: they must describe one model.
    if recorded and accuracy is not None and abs(accuracy - recorded["accuracy"]) > 0.005:
        raise ValueError(
            f"predictions.csv: expected the final test accuracy of chain.json, {recorded['accuracy']:.3f}, got"
            f" {accuracy:.3f}. Keep the files of one run together."
        )


def _confusion_view(labels: Sequence[int], predicted: Sequence[int], classes: Sequence[str]) -> list[dict[str, Any]]:
    counts = confusion_counts(labels, predicted, num_classes=len(classes)).tolist()
    return [
        {"name": name, "counts": row, "total": sum(row), "recall": row[index] / sum(row) if sum(row) else None}
        for index, (name, row) in enumerate(zip(classes, counts, strict=True))
    ]


def _curves_view(epochs: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not epochs:
        return None
    return {
        "validated": any(epoch["val"] for epoch in epochs),
        "picture": data_uri(learning_curves_svg(epochs, stages=stages), "svg+xml"),
        "epochs": len(epochs),
        "first_loss": epochs[0]["loss"],
        "last_loss": epochs[-1]["loss"],
    }


def _gallery_view(
    folder: Path, rows: Sequence[Mapping[str, str]], predictions: Collection[tuple[str, str | None, str, str]]
) -> dict[str, Any]:
    """Return the error pictures, or the reason why there are none.

    Args:
        folder: folder of the pictures.
        rows: the test items' rows of ``predictions.csv``.
        predictions: id, finding if there are several, label and prediction of all of them.

    """
    path = folder / "errors.json"
    if not rows:
        return {"absent": "predictions.csv lists no test item."}
    if not path.is_file():
        return {"absent": "the output folder has no errors/errors.json; save_error_gallery writes it."}
    gallery = read_json(path, ("target_layer", "errors"))
    errors = []
    for entry in gallery["errors"]:
        check_keys(entry, _ERROR_KEYS, where="errors.json: errors")
        if (entry["id"], entry.get("finding"), entry["label"], entry["predicted"]) not in predictions:
            return {"absent": f"errors/errors.json is of another run: predictions.csv does not list {entry['id']}."}
        errors.append({**entry, "picture": data_uri(_read_picture(folder, entry["file"]), "png")})
    return {"absent": None, "target_layer": gallery["target_layer"], "errors": errors}


def _read_picture(folder: Path, name: str) -> bytes:
    # A bare name: a path could pull any file of the machine into a page that is passed on.
    path = folder / Path(str(name)).name
    content = path.read_bytes() if path.name == name and path.is_file() else b""
    if not content.startswith(b"\x89PNG"):
        raise ValueError(
            f"errors.json: expected the name of a PNG file in {folder}, got {name!r}. Run save_error_gallery again."
        )
    return content


def data_uri(content: bytes, kind: str) -> str:
    """Return a picture as a data URI.

    Args:
        content: the picture.
        kind: its type, such as "png" or "svg+xml".

    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _number_text(value: float | None, digits: int = 3) -> str:
    return "\N{EN DASH}" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _duration_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _setting_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
