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

import json
from typing import Any

__all__ = ["parse_value", "split_assignment"]


def split_assignment(text: str) -> tuple[str, str]:
    """Return key and value of ``KEY=VALUE``, as ``--set`` takes it.

    Args:
        text: the argument.

    Raises:
        ValueError: When there is no key or no equals sign.

    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"set: expected KEY=VALUE, got {text!r}. Write for example --set batch_size=8.")
    return key, value


def parse_value(text: str) -> Any:
    """Return a number, list or the like where the text is one in JSON, else the text.

    Args:
        text: the value of an option.

    Example::

        >>> parse_value("8"), parse_value("[1, 2]"), parse_value("auto")
        (8, [1, 2], 'auto')

    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
