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

"""``python -m monai_weckd predict``: classify a folder of images into a CSV."""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_weckd.cli.faults import print_faults
from monai_weckd.cli.options import add_model, parse_changes
from monai_weckd.utils.messages import nearest
from monai_weckd.utils.progress import Progress
from monai_weckd.utils.system import limit_threads

if TYPE_CHECKING:
    from monai_weckd.data.keys import ImageKeys, KeyFinder
    from monai_weckd.predict.aggregate import Aggregate
    from monai_weckd.predict.images import Prediction
    from monai_weckd.predict.items import ItemFinder
    from monai_weckd.predict.kind import KindReference
    from monai_weckd.predict.model import PredictionBundle
    from monai_weckd.predict.reports import ReportFolder
    from monai_weckd.predict.sets import ConformalFindings, ConformalSets
    from monai_weckd.predict.table import PredictionTable

__all__ = ["add_predict"]

_ON_BAD_ITEM = ("skip", "error")
_LEVELS = ("series", "study", "patient")
_IMAGES = ("images", "bad")  # columns with the number of images of an item, and of those that cannot be read


def add_predict(commands: Any) -> None:
    """Add the command ``predict``.

    Args:
        commands: the subparsers of ``python -m monai_weckd``.

    """
    parser = commands.add_parser("predict", help="classify a folder of images into a CSV", allow_abbrev=False)
    parser.set_defaults(run=_predict)
    add_model(parser)
    add = parser.add_argument
    add("--input", type=Path, required=True, help="an image, a DICOM series' folder, or a folder to search")
    add("--output", type=Path, required=True, help="CSV to write")
    add("--min_confidence", type=float, metavar="P", help="give no answer that is less probable than P")
    add("--batch_size", type=int, default=16, help="images in a batch (default: %(default)s)")
    add("--on_bad_item", default="skip", help="a file that cannot be read: skip or error (default: %(default)s)")
    add(
        "--coverage",
        type=float,
        metavar="P",
        help="add a column `set`: classes that contain the true one with probability P; one column for each finding",
    )
    add("--aggregate", metavar="LEVEL", help="write a second CSV with a row for each series, study or patient")
    add("--resume", action="store_true", help="go on from the .part of a run that was killed, with the same options")
    add("--write_sr", type=Path, metavar="DIR", help="write DICOM structured reports for DICOM images")
    add("--sr_per", default="image", help="a report for each: image or study (default: %(default)s)")


def _predict(args: argparse.Namespace) -> None:
    _check(args)
    from monai_weckd.data.keys import KeyFinder
    from monai_weckd.data.passed_over import PassedOver
    from monai_weckd.predict.confidence import calibration_text, validation_text
    from monai_weckd.predict.images import list_images
    from monai_weckd.predict.kind import read_kind
    from monai_weckd.predict.model import PredictionBundle

    limit_threads()
    bundle = PredictionBundle(args.bundle, args.ckpt, overlays=args.config_file, changes=parse_changes(args.set))
    _refuse_options(args, bundle)
    passed_over = PassedOver()
    paths = list_images(args.input, spatial_dims=bundle.spatial_dims, passed_over=passed_over)
    what = "classes" if bundle.thresholds is None else "findings"
    print(f"model   {bundle.checkpoint}: {len(bundle.classes)} {what}, {calibration_text(bundle.checkpoint)}")
    if args.min_confidence is not None:
        limits = None if bundle.thresholds is None else dict(zip(bundle.classes, bundle.thresholds, strict=True))
        told = validation_text(bundle.checkpoint, args.min_confidence, limits)
        print(f"at {args.min_confidence:g}  {told}", flush=True)
    sets = _sets(args, bundle)
    kind = read_kind(bundle.checkpoint)
    print(f"kind    {_kind_text(kind)}")
    keys = KeyFinder(args.input, paths)
    if keys.fault:
        print(f"groups  not from the manifest: {keys.fault}")
    items = _items(bundle, paths, keys)
    aggregate = _aggregate(args, bundle, paths, keys)
    reports = _reports(args, bundle)
    counts, faults = _write(args, bundle, paths, items or keys, sets, kind, aggregate, reports)
    print_faults(faults, more=", with their reasons in the CSV")
    for line in _summary(args, bundle, counts):
        print(line)
    if aggregate is not None:
        print(_write_aggregate(args, aggregate))
    if text := passed_over.text():
        print(text)
    if reports is not None:
        print(f"reports {reports.count} in {args.write_sr}, unverified")
    if not counts["read"]:
        raise ValueError(f"input: expected images that can be read, got {len(paths)} that cannot. See {args.output}.")


def _check(args: argparse.Namespace) -> None:
    if args.batch_size < 1:
        raise ValueError(f"batch_size: expected a number of at least 1, got {args.batch_size}. Raise it.")
    if args.min_confidence is not None and not 0 <= args.min_confidence <= 1:
        raise ValueError(f"min_confidence: expected a probability, got {args.min_confidence}. Pass e.g. 0.8.")
    if args.coverage is not None and not 0 < args.coverage < 1:
        raise ValueError(f"coverage: expected a probability between 0 and 1, got {args.coverage}. Pass e.g. 0.9.")
    if args.aggregate is not None and args.aggregate not in _LEVELS:
        hint = nearest(args.aggregate, _LEVELS)
        raise ValueError(f"aggregate: expected one of {_LEVELS}, got {args.aggregate!r}. {hint}")
    if args.write_sr is not None:
        from monai_weckd.data.dicom.sr_folder import check_per

        check_per(args.sr_per)
    elif args.sr_per != "image":
        raise ValueError(
            f"sr_per: expected --write_sr beside it, got {args.sr_per!r} alone. Pass a folder for reports."
        )
    if args.on_bad_item not in _ON_BAD_ITEM:
        hint = nearest(args.on_bad_item, _ON_BAD_ITEM)
        raise ValueError(f"on_bad_item: expected one of {_ON_BAD_ITEM}, got {args.on_bad_item!r}. {hint}")


def _refuse_options(args: argparse.Namespace, bundle: PredictionBundle) -> None:
    """Refuse options that are for single images, where the model is of several images."""
    if args.aggregate is not None and bundle.item_level != "image":
        raise ValueError(
            f"aggregate: expected no such option for a model of each {bundle.item_level}, got {args.aggregate}. Its "
            "rows are not of single images; leave it out."
        )
    if args.write_sr is not None and bundle.item_level == "patient":
        raise ValueError(
            "write_sr: expected a model of images, series or studies, got one of patients. A report is about one "
            "study; leave it out."
        )


def _reports(args: argparse.Namespace, bundle: PredictionBundle) -> ReportFolder | None:
    """Return the folder of reports, None without --write_sr."""
    if args.write_sr is None:
        return None
    from monai_weckd.data.dicom.sr_series import series_numbers
    from monai_weckd.data.image_files import image_files
    from monai_weckd.predict.reports import ReportFolder

    taken = series_numbers(image_files(args.input) if args.input.is_dir() else [str(args.input)])
    options: Any = {"per": args.sr_per, "resume": args.resume, "min_confidence": args.min_confidence or 0.0}
    return ReportFolder(args.write_sr, bundle, taken=taken, **options)


def _items(bundle: PredictionBundle, paths: Sequence[str], keys: KeyFinder) -> ItemFinder | None:
    """Return the items of the images, None for a model of single images; print how many they are."""
    if bundle.item_level == "image":
        return None
    from monai_weckd.data.item_level import PLURALS
    from monai_weckd.predict.items import ItemFinder

    items = ItemFinder(keys, paths, bundle.item_level)
    print(f"items   {len(paths)} images in {len(items.paths)} {PLURALS[bundle.item_level]}, whose features are pooled")
    return items


def _paths_of_items(keys: KeyFinder | ItemFinder) -> dict[str, list[str]]:
    """Return the images of each item, none for a model of single images."""
    from monai_weckd.predict.items import ItemFinder

    return keys.paths if isinstance(keys, ItemFinder) else {}


def _sets(args: argparse.Namespace, bundle: PredictionBundle) -> ConformalSets | ConformalFindings | None:
    """Return the prediction sets, None without --coverage; print how they are calibrated."""
    if args.coverage is None:
        return None
    from monai_weckd.predict.sets import ConformalFindings, ConformalSets

    kind = ConformalSets if bundle.thresholds is None else ConformalFindings
    sets = kind(bundle.checkpoint, bundle.classes, args.coverage)
    print(f"sets    {sets.text()}", flush=True)
    return sets


def _kind_text(kind: KindReference | None) -> str:
    if kind is None:
        return "unknown: no kind.npz beside the model"
    return f"{len(kind.features)} training images; an image farther than {kind.limit:.3f} from them is not of this kind"


def _aggregate(
    args: argparse.Namespace, bundle: PredictionBundle, paths: Sequence[str], keys: KeyFinder
) -> Aggregate | None:
    """Return an empty aggregate, None without --aggregate; refuse a level that no image has."""
    if args.aggregate is None:
        return None
    from monai_weckd.predict.aggregate import Aggregate

    options: Any = {"min_confidence": args.min_confidence or 0, "thresholds": bundle.thresholds}
    aggregate = Aggregate(args.aggregate, bundle.classes, **options)
    if not any(keys.find(path).of(args.aggregate) for path in paths):
        raise ValueError(
            f"aggregate: expected images with a known {args.aggregate}, got none of {len(paths)}. "
            "Pass DICOM images, or write a manifest.csv with a column group, study or series beside the images."
        )
    return aggregate


def _write_aggregate(args: argparse.Namespace, aggregate: Aggregate) -> str:
    """Write the aggregate beside the table, and return a line that says so."""
    path = args.output.with_name(f"{args.output.stem}.{args.aggregate}.csv")
    aggregate.write(path)
    unknown = f", without {aggregate.unknown} images whose {args.aggregate} is not known" if aggregate.unknown else ""
    return f"written {path}{unknown}"


def _write(
    args: argparse.Namespace,
    bundle: PredictionBundle,
    paths: Sequence[str],
    keys: KeyFinder | ItemFinder,
    sets: ConformalSets | ConformalFindings | None,
    kind: KindReference | None,
    aggregate: Aggregate | None,
    reports: ReportFolder | None,
) -> tuple[Counter[str], list[str]]:
    """Write the table, and return the number of images of each kind and the faults of the bad ones."""
    from monai_weckd.predict.table import PredictionTable, prediction_row

    counts: Counter[str] = Counter()
    faults: list[str] = []
    items = _paths_of_items(keys)
    paths = list(items) or paths
    further = [*(_IMAGES if items else ()), *([] if sets is None else sets.columns)]
    further += [] if kind is None else kind.columns(None)
    made_by = _made_by(args, bundle, items)
    table = PredictionTable(
        args.output, bundle.classes, further, thresholds=bundle.thresholds, made_by=made_by, resume=args.resume
    )
    try:
        with table:
            done = _take_over(args, table, bundle, paths, keys, counts, faults, aggregate, reports)
            for batch in _batches(args, bundle, paths[done:], items, kind):
                rows = []
                for item in batch:
                    fault = item.fault
                    found = keys.find(item.path)
                    options: Any = {"min_confidence": args.min_confidence or 0, "thresholds": bundle.thresholds}
                    row = prediction_row(item, found, bundle.classes, **options)
                    if items:
                        row.update(images=item.images, bad=item.bad)
                    if sets is not None:
                        row.update(sets.cells(item.probabilities))
                    if kind is not None:
                        row.update(kind.columns(item.distance))
                    _count(item, row, found, counts, aggregate)
                    if reports is not None and row.get("predicted") != "":
                        number = counts["bad"] + counts["read"]
                        row["reason"] = reports.write(item, number, paths=items.get(item.path))
                        fault = row["reason"] or fault
                    if fault and args.on_bad_item == "error":
                        raise ValueError(f"{fault} Or pass --on_bad_item skip.")
                    faults += [fault] if fault else []
                    row["reason"] = keys.relative(row["reason"])
                    rows.append(row)
                table.write(rows)
            faults += [] if reports is None else reports.finish()
    except KeyboardInterrupt:
        done = counts["read"] + counts["bad"]
        raise InterruptedError(f"stopped after {done} of {len(paths)} images; their rows are in {table.part}") from None
    return counts, faults


def _count(
    item: Prediction, row: Mapping[str, Any], found: ImageKeys, counts: Counter[str], aggregate: Aggregate | None
) -> None:
    counts["bad" if item.probabilities is None else "read"] += 1
    counts["uncertain"] += item.probabilities is not None and (row.get("predicted") == "" or bool(row.get("undecided")))
    counts["odd"] += bool(row.get("not_of_this_kind"))
    if aggregate is not None:
        aggregate.add(found, item)


def _take_over(
    args: argparse.Namespace,
    table: PredictionTable,
    bundle: PredictionBundle,
    paths: Sequence[str],
    keys: KeyFinder | ItemFinder,
    counts: Counter[str],
    faults: list[str],
    aggregate: Aggregate | None,
    reports: ReportFolder | None,
) -> int:
    """Count the rows of the run that was killed, and return how many images they are: whole batches, as before."""
    from monai_weckd.predict.table import BELOW_CONFIDENCE, kept_prediction

    done = len(table.kept) if len(table.kept) == len(paths) else len(table.kept) // args.batch_size * args.batch_size
    table.go_on(done)
    for row, path in zip(table.kept, paths, strict=False):
        found = keys.find(path)
        if row["file"] != found.file.encode("utf-8", "backslashreplace").decode():
            raise ValueError(
                f"resume: expected rows of the images of {args.input} in {table.part}, got {row['file']!r} "
                f"in the place of {found.file!r}. Leave --resume out."
            )
        kept = kept_prediction(row, path, bundle.classes)
        _count(kept, row, found, counts, aggregate)
        if reports is not None and reports.per == "study" and row.get("predicted") != "":
            reports.write(kept, counts["bad"] + counts["read"], paths=_paths_of_items(keys).get(kept.path))
        faults += [row["reason"]] if row["reason"] not in ("", BELOW_CONFIDENCE) else []
    if args.resume:
        print(f"resume  {done} of {len(paths)} images are in {table.part}", flush=True)
    return done


def _made_by(args: argparse.Namespace, bundle: PredictionBundle, items: Mapping[str, Sequence[str]]) -> str:
    """Return a digest of all that decides what a row says, but for the images."""
    from monai_weckd.utils.records import KIND, OUT_OF_FOLD, json_digest

    configs = bundle.root / "configs"
    overlays = [path if path.is_file() else configs / path for path in map(Path, args.config_file)]
    beside = [bundle.checkpoint.with_name(name) for name in (KIND, OUT_OF_FOLD)]
    files = [bundle.checkpoint, configs / "inference.json", *overlays, *beside]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in files]
    options = [args.set, args.min_confidence, args.coverage, args.batch_size, args.sr_per, bundle.classes]
    options += [] if bundle.thresholds is None else [bundle.thresholds]
    options += [items] if items else []
    return json_digest({"files": digests, "options": options})


def _batches(
    args: argparse.Namespace,
    bundle: PredictionBundle,
    paths: Sequence[str],
    items: Mapping[str, Sequence[str]],
    kind: KindReference | None,
) -> Iterator[Sequence[Prediction]]:
    """Yield the predictions, and show how many of them are written."""
    from monai_weckd.predict.images import predict_images, predict_items

    options: Any = {"batch_size": args.batch_size, "kind": kind}
    wanted = {name: items[name] for name in paths} if items else {}
    found = predict_items(bundle, wanted, **options) if items else predict_images(bundle, paths, **options)
    with Progress("predicting", len(paths)) as shown:
        for batch in found:
            yield batch
            shown.move(shown.done + len(batch))


def _summary(args: argparse.Namespace, bundle: PredictionBundle, counts: Counter[str]) -> Iterator[str]:
    from monai_weckd.data.item_level import PLURALS

    line = f"{PLURALS[bundle.item_level]:7} {counts['read']} read, {counts['bad']} bad"
    if args.min_confidence is not None:
        line += f", {counts['uncertain']} below min_confidence"
    if counts["odd"]:
        line += f", {counts['odd']} not of this kind"
    yield line
    yield f"written {args.output}"
