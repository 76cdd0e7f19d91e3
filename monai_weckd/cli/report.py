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

"""``python -m monai_weckd report``: write a run's report again, and explain its numbers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["add_report"]


def add_report(commands: Any) -> None:
    """Add the command ``report``.

    Args:
        commands: the subparsers of ``python -m monai_weckd``.

    """
    parser = commands.add_parser(
        "report", help="write a run's report again and say what its numbers mean", allow_abbrev=False
    )
    parser.set_defaults(run=_report)
    parser.add_argument("--output_dir", type=Path, required=True, help="output folder of the run")


def _report(args: argparse.Namespace) -> None:
    from monai_weckd.visualize import write_report

    page = write_report(args.output_dir)
    chain = json.loads((args.output_dir / "chain.json").read_text(encoding="utf-8"))
    final, budget = chain["final"], chain["label_budget"]
    print(f"report  {page}")
    print(
        f"model   {args.output_dir / 'model.pt'}: stage {final['stage']} of {len(chain['stages'])}, a plain state_dict"
    )
    print(f"labels  {budget['train']} for training and {budget['val']} for validation")
    if passed_over := chain["settings"].get("passed_over"):
        print(passed_over)
    if final["test"]:
        _tell_test(chain)
    else:
        print("test    none held out, so no figure says how good the model is on new data")
    if chain["settings"].get("synthetic"):
        print("These images are synthetic: the numbers show that the software runs and prove nothing about patients.")


def _tell_test(chain: Mapping[str, Any]) -> None:
    """Print the figure on test of the first and of the final stage."""
    if chain.get("findings"):
        key, name, chance = "macro_auc", "macro AUC", 0.5
        meaning = "the mean over the findings of how often an image with one ranks above an image without it"
    else:
        key, name, chance = "balanced_accuracy", "balanced accuracy", 1 / len(chain["classes"])
        meaning = "the mean over the classes of the share recognized"
    measured = (stage["test"][key] for stage in (chain["stages"][0], chain["final"]))
    # no finding may be both present and absent
    first, last = ("not defined" if value is None else f"{value:.3f}" for value in measured)
    print(f"test    {name} {last} (stage 1: {first}; chance: {chance:.3f})")
    print(f"        that is {meaning}, on groups that no stage has seen;")
    print("        stage 1 had fewer labels, so the difference is not what the chain itself is worth")
