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

"""``python -m monai_weckd phantom``: a small synthetic data set."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_phantom"]


def add_phantom(commands: Any) -> None:
    """Add the command ``phantom``.

    Args:
        commands: the subparsers of ``python -m monai_weckd``.

    """
    parser = commands.add_parser("phantom", help="make a small synthetic data set", allow_abbrev=False)
    parser.set_defaults(run=_phantom)
    parser.add_argument("--kind", required=True, help="kind of images")
    parser.add_argument("--out", required=True, help="folder to make")
    parser.add_argument("--items", type=int, default=240, help="number of images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the images (default: %(default)s)")


def _phantom(args: argparse.Namespace) -> None:
    from monai_weckd.data.phantoms import make_phantom

    make_phantom(args.kind, args.out, items=args.items, seed=args.seed)
    print("These images are synthetic: they show that the software runs and prove nothing about patients.")
    print(f"Next: python -m monai_weckd plan --dataset_dir {args.out}")
