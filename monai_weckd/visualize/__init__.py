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

"""Figures, galleries and HTML reports of chains and comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_weckd.utils.lazy import lazy_names

from .report import write_report

if TYPE_CHECKING:
    from .gallery import confident_errors, save_error_gallery

__all__ = ["confident_errors", "save_error_gallery", "write_report"]

_HOMES = {"confident_errors": "gallery", "save_error_gallery": "gallery"}

# modules that need torch: writing a report does not
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
