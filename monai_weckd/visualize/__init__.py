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

from typing import TYPE_CHECKING, Any

from .report import write_report

if TYPE_CHECKING:
    from .gallery import confident_errors, save_error_gallery

__all__ = ["confident_errors", "save_error_gallery", "write_report"]


def __getattr__(name: str) -> Any:
    """Import modules that need torch on first use (PEP 562), because writing a report does not need it."""
    if name in ("confident_errors", "save_error_gallery"):
        from . import gallery

        return getattr(gallery, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the lazily imported names as well."""
    return sorted({*globals(), *__all__})
