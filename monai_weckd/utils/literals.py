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

"""Write texts into a MONAI configuration so that they stay texts."""

from __future__ import annotations

import re

__all__ = ["literal"]

# what MONAI evaluates, replaces, or reads as a place
_READ = re.compile(r"[$@%]|.*(#|[@%]::)", re.DOTALL)
_ESCAPES = str.maketrans({letter: f"\\x{ord(letter):02x}" for letter in "@%#"})


def literal(text: str) -> str:
    """Return the configuration value that evaluates to a text, such as a path, even if it looks like an expression.

    Args:
        text: the text.

    Example::

        >>> literal("images"), literal("$images")
        ('images', "$'$images'")

    """
    if not _READ.match(text):
        return text
    # an expression that gives the text; within it MONAI would still replace references
    return "$" + ascii(text).translate(_ESCAPES)
