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

"""Choose the items that are labeled next."""

from __future__ import annotations

from monai_weckd.selection.context import STRATEGIES, SelectionContext
from monai_weckd.selection.findings import choose_findings
from monai_weckd.selection.strategies import select_items

__all__ = ["STRATEGIES", "SelectionContext", "choose_findings", "select_items"]
