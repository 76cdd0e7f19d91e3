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

from __future__ import annotations

import argparse
import importlib
import json
import logging
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.harness import ROOT, Result, machine, markdown

PARTS = ("steps", "loading", "chain_cost", "scaling", "memory", "startup")
RESULTS, PAGE = Path(__file__).parent / "results.json", ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results of make bench -->\n", "<!-- end of the results -->\n"


def on_page(page: str, table: str) -> str:
    """Return a page with the table in its place."""
    head, rest = page.split(BEGIN)
    return head + BEGIN + "\n" + table + "\n" + END + rest.split(END)[1]


def main() -> None:
    """Run the parts that are asked for, print the table, and keep the results of a whole run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the goals, each as a ratio.")
    parser.add_argument("parts", nargs="*", default=PARTS, help=f"which parts, of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="see that everything runs; the figures mean nothing")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"parts: expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    results: list[Result] = []
    for part in args.parts:
        results += importlib.import_module(f"benchmarks.{part}").measure(quick=args.quick)
    about = machine()
    table = markdown(results, about)
    print(table)
    if tuple(args.parts) == PARTS and not args.quick:
        found = {"machine": about, "results": [{**asdict(result), "verdict": result.verdict} for result in results]}
        RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        PAGE.write_text(on_page(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main()
