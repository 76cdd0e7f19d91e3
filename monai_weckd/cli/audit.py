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

"""``python -m monai_weckd audit``: find what is wrong with a data set before training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from monai_weckd.cli.options import add_changes, parse_changes

__all__ = ["add_audit"]


def add_audit(commands: Any) -> None:
    """Add the command ``audit``.

    Args:
        commands: the subparsers of ``python -m monai_weckd``.

    """
    parser = commands.add_parser(
        "audit", help="find duplicates, contradicted labels and odd images in your data", allow_abbrev=False
    )
    parser.set_defaults(run=_audit)
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="the bundle whose preprocessing and frozen network are used")
    add("--dataset_dir", required=True, help="folder with manifest.csv, or with one folder for each class")
    add("--output_dir", type=Path, required=True, help="folder for the page, its tables and audit.json")
    add("--run", type=Path, dest="run_dir", metavar="OUTPUT_DIR", help="a finished training: show its results as well")
    add("--overwrite", action="store_true", help="replace an earlier audit in that folder")
    add_changes(parser)


def _audit(args: argparse.Namespace) -> None:
    from monai_weckd.annotation.pictures import image_png
    from monai_weckd.audit.audit import audit_data
    from monai_weckd.audit.findings import KINDS
    from monai_weckd.audit.page import check_page, prepare_folder, write_audit
    from monai_weckd.audit.results import read_run
    from monai_weckd.audit.subgroups import ATTRIBUTES
    from monai_weckd.bundle.config import BundleConfig
    from monai_weckd.data.datalist import load_datalist
    from monai_weckd.data.manifest import manifest_columns
    from monai_weckd.utils.system import limit_threads

    # fails before the work, not after it, if a package for the page is missing
    check_page()
    limit_threads()
    config = BundleConfig(args.bundle, overlays=args.config_file, changes=parse_changes(args.set))
    datalist = load_datalist(args.dataset_dir, spatial_dims=config.spatial_dims, findings=config.has_findings)
    columns = manifest_columns(args.dataset_dir, ATTRIBUTES, datalist.passed_over)
    run = None if args.run_dir is None else read_run(args.run_dir, datalist)
    folder = prepare_folder(args.output_dir, overwrite=args.overwrite)
    for text in filter(None, (datalist.layout, datalist.passed_over.text())):
        print(text)
    print(f"reading {len(datalist.items)} images; each goes through the network once", flush=True)
    audit = audit_data(config, datalist, columns=columns, run=run)
    about = {"bundle": config.root.name, "passed_over": datalist.passed_over.text()}
    write_audit(audit, folder, picture=image_png, about=about)
    for kind, count in audit.counts.items():
        print(f"{count:6}  {KINDS[kind]}")
    print(f"written {folder / 'audit.html'}")
