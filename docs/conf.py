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

# the package of this checkout, whatever is installed
sys.path.insert(0, str(Path(__file__).parents[1]))

import monai_weckd

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
    ("py:class", r"(.*\.)?(Stateful|SupervisedOptions)"),
]
