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

"""Learn from several sites whose images and labels stay where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_weckd.fl.exact import ExactHead, add_sums, solve_exact
from monai_weckd.utils.lazy import lazy_names

if TYPE_CHECKING:
    from monai_weckd.fl.bundle import SiteBundle
    from monai_weckd.fl.exact_site import ExactSite

__all__ = ["ExactHead", "ExactSite", "SiteBundle", "add_sums", "solve_exact"]

_HOMES = {"ExactSite": "exact_site", "SiteBundle": "bundle"}

# modules that need MONAI: a server starts without it
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
