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

"""``python -m monai_weckd bundle``: copy a shipped bundle."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from monai_weckd.bundle.shipped import bundle_names, copy_bundle

__all__ = ["add_bundle"]


def add_bundle(commands: Any) -> None:
    """Add the command ``bundle``.

    Args:
        commands: the subparsers of ``python -m monai_weckd``.

    """
    parser = commands.add_parser("bundle", help="copy a bundle, to run it and to change it", allow_abbrev=False)
    parser.set_defaults(run=_bundle)
    parser.add_argument("--name", required=True, help=f"one of {', '.join(bundle_names())}")
    parser.add_argument("--to", required=True, metavar="DIR", help="folder to copy the bundle to, as DIR/NAME")


def _bundle(args: argparse.Namespace) -> None:
    target = copy_bundle(args.name, args.to)
    command = ["python", "-m", "monai.bundle", "run", "--config_file", target / "configs" / "train.json"]
    command += ["--bundle_root", target, "--dataset_dir", "path/to/images", "--output_dir", "path/to/output"]
    print(f"The bundle is in {target}. Next:")
    print(shlex.join(map(str, command)))
