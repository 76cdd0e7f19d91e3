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

"""``python -m monai_weckd label_sr``: write labels as DICOM structured reports."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from monai_weckd.cli.faults import print_faults

__all__ = ["add_label_sr"]


def add_label_sr(commands: Any) -> None:
    """Add the command ``label_sr``.

    Args:
        commands: the subparsers of ``python -m monai_weckd``.

    """
    parser = commands.add_parser(
        "label_sr", help="write the labels of `label` as DICOM structured reports", allow_abbrev=False
    )
    parser.set_defaults(run=_label_sr)
    add = parser.add_argument
    add("--dataset_dir", type=Path, required=True, help="folder of the images")
    add("--labels", type=Path, required=True, help="labels.json of `label`")
    add("--write_sr", type=Path, required=True, metavar="DIR", help="folder for the reports")
    add("--sr_per", default="image", help="a report for each: image or study (default: %(default)s)")
    add("--verified_by", metavar="FAMILY^GIVEN", help="who verifies the reports (default: they stay unverified)")
    add("--organization", help="the organization of who verifies them")


def _label_sr(args: argparse.Namespace) -> None:
    if (args.verified_by is None) != (args.organization is None):
        raise ValueError("verified_by, organization: expected both, got one. Pass the other, or leave both out.")
    from monai_weckd.annotation.label_files import labeled_level
    from monai_weckd.annotation.reports import label_reports
    from monai_weckd.data.item_level import PLURALS

    verified = None if args.verified_by is None else (args.verified_by, args.organization)
    counts, faults = label_reports(args.dataset_dir, args.labels, args.write_sr, per=args.sr_per, verified=verified)
    print_faults(faults)
    reported = counts.pop("reported")
    for reason, count in sorted(counts.items()):
        if count:
            print(f"labels  {count} passed over: {reason}")
    told = "unverified" if args.verified_by is None else f"verified by {args.verified_by}"
    print(f"reports of {reported} {PLURALS[labeled_level(args.labels)[0]]} in {args.write_sr}, {told}")
    if not reported:
        raise ValueError(f"labels: expected some of DICOM images, got none in {args.labels}. Look at --dataset_dir.")
