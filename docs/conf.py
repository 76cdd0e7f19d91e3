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
"""Settings of Sphinx."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# the package of this checkout, whatever is installed
sys.path.insert(0, str(Path(__file__).parents[1]))

import monai_weckd
from monai_weckd.engines import ChainOptions
from monai_weckd.utils.options import option_rows

project = "monai_weckd"
author = "monai_weckd contributors"
copyright = "monai_weckd contributors"  # noqa: A001
release = monai_weckd.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"monai_weckd {release}"

autodoc_member_order = "bysource"
myst_heading_anchors = 3

nitpicky = True
# the documentation is built without a network, hence without the inventories of other projects
nitpick_ignore_regex = [
    ("py:.*", r"(argparse|collections|ignite|monai|np|numpy|optuna|os|pathlib|pydicom|torch)\..*"),
    # names that are imported for type checking alone, which autodoc cannot look up
    ("py:class", "BaseTrial|DataLoader|Evaluator|EventEnum|Optimizer|Path|SupervisedTrainer"),
    # of the project, and not public
    ("py:class", r"(.*\.)?(Backbone|Label|LabelTask|Result|Stateful|SupervisedOptions|T)"),
]


OPTIONS = Path(__file__).parent / "reference" / "options.md"
OPTIONS_HEAD = """# All options

This page is generated from the fields of two frozen dataclasses.
A field has one name everywhere: Python, `train.json`, the command line, `plan.json` and `chain.json`.
"""
OPTIONS_OF = {
    monai_weckd.PlanSettings: """Splits, stages and the labels of each stage.
In Python: `plan_chain(items, PlanSettings(num_stages=3))`.
In a bundle: `--val_fraction 0.2` where `train.json` has that key at the top, else `--plan#settings#shard_size 10`.
For the command `plan`: `--val_fraction 0.2`.
""",
    ChainOptions: """How a chain goes from stage to stage.
In Python: `ChainDistillationTrainer(..., chain=ChainOptions(averaging=0.95))`.
In a bundle: `--chain#averaging 0.95`.
""",
}


def write_options(app: Any) -> None:
    """Write the page of all options, so that it never differs from the code.

    Args:
        app: Sphinx.

    """
    parts = [OPTIONS_HEAD]
    for kind, text in OPTIONS_OF.items():
        rows = [f"| `{name}` | `{default}` | {help_} |" for name, default, help_ in option_rows(kind)]
        parts.append(
            "\n".join(
                [f"## {kind.__name__}", "", text, "| option | default | what it does |", "|---|---|---|", *rows, ""]
            )
        )
    text = "\n".join(parts)
    if not OPTIONS.exists() or OPTIONS.read_text(encoding="utf-8") != text:
        OPTIONS.write_text(text, encoding="utf-8")


def setup(app: Any) -> None:
    """Let Sphinx call what writes a page.

    Args:
        app: Sphinx.

    """
    app.connect("builder-inited", write_options)
