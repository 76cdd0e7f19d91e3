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

"""Run the benchmarks, print their table, and keep their results."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import warnings
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import ROOT, Result, machine, markdown

PARTS = ("steps", "handler", "loading", "chain_cost", "scaling", "memory", "startup", "checkpoint")
RESULTS, PAGE = Path(__file__).parent / "results.json", ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results of make bench -->\n", "<!-- end of the results -->\n"


def on_page(page: str, table: str) -> str:
    """Return a page with its table replaced."""
    head, rest = page.split(BEGIN)
    return head + BEGIN + "\n" + table + "\n" + END + rest.split(END)[1]


def keep(found: dict[str, list[Result]], about: dict[str, str]) -> None:
    """Write results to the file and the page; keep results of other parts from the same day and machine."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"machine": None}
    if kept["machine"] != about:
        if set(found) != set(PARTS):
            print("The parts are not kept: the table is of another day or machine, and only a whole run replaces it.")
            return
        kept = {"machine": about, "parts": {}}
    for part, results in found.items():
        kept["parts"][part] = [
            {**asdict(result), "verdict": result.verdict, "processor": about["processor"]} for result in results
        ]
    RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(on_page(PAGE.read_text(encoding="utf-8"), markdown(load(kept), about)), encoding="utf-8")


def load(kept: dict[str, Any]) -> list[Result]:
    """Return the results of the file's content, in the order of the parts."""
    rows = [row for part in PARTS for row in kept["parts"][part]]
    names = {field.name for field in fields(Result)}
    return [Result(**{key: value for key, value in row.items() if key in names}) for row in rows]


def main() -> None:
    """Run the requested parts, print their table, and keep their results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the goals, each as a ratio.")
    parser.add_argument("parts", nargs="*", default=PARTS, help=f"which parts, of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="see that everything runs; nothing is kept")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"parts: expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    found = {part: importlib.import_module(f"benchmarks.{part}").measure(quick=args.quick) for part in args.parts}
    about = machine()
    print(markdown([result for results in found.values() for result in results], about))
    if not args.quick:
        keep(found, about)


if __name__ == "__main__":
    main()
