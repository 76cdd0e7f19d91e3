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


"""Keep the text of headers out of the log and off the screen, where libraries would quote it."""

from __future__ import annotations

import logging
from types import ModuleType, SimpleNamespace

import pydicom.misc

__all__ = ["quiet_headers", "quiet_loggers", "quiet_warnings"]

# they quote headers, and answers of a DICOMweb server
_LIBRARIES = ("pydicom", "highdicom", "pylibjpeg", "libjpeg", "openjpeg", "dicomweb_client", "retrying")


def quiet_headers() -> None:
    """Silence the warnings and loggers of pydicom and similar libraries in this process; our errors say what matters.

    Other code in the same process gets no warnings of pydicom either.
    """
    quiet_warnings(pydicom.misc)  # all warnings of pydicom come from this module
    quiet_loggers(*_LIBRARIES)


def quiet_warnings(module: ModuleType) -> None:
    """Silence the warnings of a module.

    A filter of ``warnings`` is not enough: each thread that restores the filters removes those of the others.

    Args:
        module: a module that calls ``warnings.warn``.

    """
    module.warnings = SimpleNamespace(warn=_say_nothing)  # type: ignore[attr-defined]


def quiet_loggers(*names: str) -> None:
    """Silence loggers and those below them.

    Args:
        names: their names.

    """
    for name in names:
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)  # those below inherit it
        logger.addFilter(_pass_nothing)  # also where somebody sets the level again


def _pass_nothing(record: logging.LogRecord) -> bool:
    return False


def _say_nothing(message: str, category: type[Warning] | None = None, stacklevel: int = 1) -> None:
    pass
