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

"""``python -m monai_weckd fetch``, ``send`` and ``manifest``: exchange series and reports with a DICOMweb server."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from monai_weckd.cli.faults import print_faults
from monai_weckd.utils.messages import nearest
from monai_weckd.utils.progress import progress

__all__ = ["add_pacs", "fetch_into", "filter_of"]

_URL = "the DICOMweb service, such as https://host/dicom-web"

T = TypeVar("T")


def add_pacs(commands: Any) -> None:
    """Add the commands ``fetch``, ``send`` and ``manifest``.

    Args:
        commands: the subparsers of ``python -m monai_weckd``.

    """
    parser = commands.add_parser("fetch", help="bring DICOM series from a DICOMweb server", allow_abbrev=False)
    parser.set_defaults(run=_fetch)
    parser.add_argument("--url", required=True, help=_URL)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the series and index.csv")
    parser.add_argument("--modality", help="series of this modality, such as MR")
    parser.add_argument("--study_date", metavar="DATE", help="studies of a date or range, such as 20200101-20201231")
    parser.add_argument(
        "--filter", action="append", default=[], metavar="KEYWORD=VALUE", help="another value to match; repeatable"
    )
    parser = commands.add_parser("send", help="store structured reports on a DICOMweb server", allow_abbrev=False)
    parser.set_defaults(run=_send)
    parser.add_argument("--url", required=True, help=_URL)
    parser.add_argument("--input", type=Path, required=True, help="a report, or a folder to search")
    parser = commands.add_parser(
        "manifest", help="write manifest.csv, with labels from `label` or from structured reports", allow_abbrev=False
    )
    parser.set_defaults(run=_manifest)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of the images, or of fetched series")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--labels", type=Path, help="labels.json of `label`")
    source.add_argument("--reports", type=Path, help="folder of fetched reports")
    parser.add_argument("--unverified", action="store_true", help="also use reports that no person has verified")
    parser.add_argument("--rebuild", action="store_true", help="first write labels.json anew from labels.log")
    parser.add_argument("--disagreements", default="settle", help="as of `label`: settle, majority or soft (--labels)")
    parser.add_argument("--output", type=Path, help="the manifest (default: manifest.csv in the folder of the images)")


def _fetch(args: argparse.Namespace) -> None:
    fetch_into(args.output_dir, args.url, _filters(args))


def fetch_into(output_dir: Path, url: str, filters: Mapping[str, str]) -> None:
    """Fetch the matching series into a folder, and print how many.

    Args:
        output_dir: the folder.
        url: URL of the DICOMweb service.
        filters: values to match, by DICOM keyword.

    Raises:
        ValueError: When no series matches, or some cannot be fetched.
        InterruptedError: When the user interrupts the command.

    """
    from monai_weckd.data.dicom.errors import DicomReadError
    from monai_weckd.pacs.errors import DicomwebObjectError
    from monai_weckd.pacs.fetch import series_folder

    server = _server(url)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    joined = 0
    try:
        with series_folder(server, output_dir) as folder:
            for series in _counted(server.series(filters)):
                try:
                    fetched = folder.fetch(series)
                except (DicomwebObjectError, DicomReadError) as fault:
                    faults.append(str(fault))
                    continue
                counts["instances"] += fetched
                counts["fetched" if fetched else "whole"] += 1
            joined = folder.index.join_patients()
    except KeyboardInterrupt:
        raise InterruptedError(f"stopped after {counts['fetched']} series; run it again to go on") from None
    print_faults(faults)
    print(f"series  {counts['fetched']} fetched, {counts['whole']} there already, {len(faults)} bad")
    print(f"files   {counts['instances']} fetched into {output_dir}")
    if joined:
        print(f"groups  {joined} series joined the group of their patient, whom others of the study or number tell")
    if faults:
        raise ValueError(f"{url}: expected all series, got {len(faults)} that cannot be fetched.")
    if not counts:
        raise ValueError(f"{url}: expected series that match, got none. Look at the filters.")


def _send(args: argparse.Namespace) -> None:
    from monai_weckd.pacs.renumber import renumber_series
    from monai_weckd.pacs.send import list_reports, send_reports

    reports, server = list_reports(args.input), _server(args.url)
    ledger = (args.input if args.input.is_dir() else args.input.parent) / "sent.csv"
    counts: Counter[str] = Counter()
    faults: list[str] = []
    try:
        if renumbered := renumber_series(server, reports.values()):
            print(f"numbers {renumbered} series got another, since theirs is taken there")
        outcomes = send_reports(server, reports, ledger)
        for sent in progress(outcomes, "sending", total=len(reports), unit="reports"):
            counts[sent.outcome] += 1
            faults += [f"{sent.file}: {sent.reason}"] if sent.reason else []
    except KeyboardInterrupt:
        raise InterruptedError(f"stopped after {counts.total()} reports; run it again to go on") from None
    print_faults(faults)
    print(f"reports {counts['stored']} stored, {counts['there already']} there already, {counts['refused']} refused")
    print(f"ledger  {ledger}")
    if faults:
        raise ValueError(f"{args.url}: expected to store all reports, got {len(faults)} refused. See {ledger}.")


def _manifest(args: argparse.Namespace) -> None:
    output = args.output or args.dataset_dir / "manifest.csv"
    if output.exists():
        raise FileExistsError(f"output: expected nothing at {output}, got a file. Pass another --output.")
    if args.unverified and args.reports is None:
        raise ValueError("unverified: expected --reports, got --labels, which a person has given. Leave it out.")
    if args.rebuild and args.labels is None:
        raise ValueError("rebuild: expected --labels, got --reports, which have no labels.log. Leave it out.")
    if args.labels is not None:
        from monai_weckd.annotation.export import export_labels
        from monai_weckd.annotation.label_files import rebuild_labels

        if args.rebuild:
            same = "it was what labels.log adds up to, to the byte"
            said = same if rebuild_labels(args.labels) else "it was not what labels.log adds up to"
            print(f"rebuilt {args.labels}: {said}")
        counts = export_labels(args.dataset_dir, args.labels, output, policy=args.disagreements)
    else:
        from monai_weckd.pacs.labels import write_manifest

        counts = write_manifest(args.dataset_dir, args.reports, output, unverified=args.unverified)
    print(f"items   {counts.pop('labeled')} labeled, {counts.pop('unlabeled')} not")
    for reason, count in sorted(counts.items()):
        if count:
            print(f"{'reports' if args.labels is None else 'labels '} {count} passed over: {reason}")
    print(f"written {output}")


def _filters(args: argparse.Namespace) -> dict[str, str]:
    """Return the values to match by DICOM keyword, from all options."""
    filters = {}
    if args.modality is not None:
        filters["Modality"] = args.modality
    if args.study_date is not None:
        if not re.fullmatch(r"\d{8}(-(\d{8})?)?|-\d{8}", args.study_date):
            raise ValueError(f"study_date: expected YYYYMMDD or a range with -, got {args.study_date!r}. Correct it.")
        filters["StudyDate"] = args.study_date
    filters.update(map(filter_of, args.filter))
    if not filters:
        raise ValueError("filter: expected at least one, got none. Pass --modality, --study_date or --filter.")
    return filters


def filter_of(text: str) -> tuple[str, str]:
    """Return keyword and value of ``KEYWORD=VALUE``, as ``--filter`` takes it.

    Args:
        text: the argument.

    Raises:
        ValueError: When the keyword is not a DICOM keyword, or there is no value.

    """
    keyword, _, value = text.partition("=")
    keyword = _checked_keyword(keyword)
    if not value:
        raise ValueError(f"filter: expected KEYWORD=VALUE, got {text!r}. Write for example BodyPartExamined=BRAIN.")
    return keyword, value


def _checked_keyword(keyword: str) -> str:
    from pydicom.datadict import keyword_dict

    if keyword not in keyword_dict:
        hint = nearest(keyword, keyword_dict, otherwise="Look it up in the DICOM standard.")
        raise ValueError(f"filter: expected a DICOM keyword, got {keyword!r}. {hint}")
    return keyword


def _server(url: str) -> Any:
    from monai_weckd.pacs.server import DicomwebServer

    return DicomwebServer(url)


def _counted(series: Iterator[T]) -> Iterator[T]:
    """Yield series, whose number is not known before; count them in a terminal if tqdm is installed."""
    from monai.utils import optional_import

    tqdm, has_tqdm = optional_import("tqdm", name="tqdm")
    # with disable=None, tqdm turns itself off without a terminal
    yield from tqdm(series, disable=None, unit="series") if has_tqdm else series
