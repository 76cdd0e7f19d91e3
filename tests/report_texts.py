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

from typing import Any


def sendable(value: Any) -> Any:
    """Return a test's report with each text in UTF-8: xdist ends the whole session over the name of a file that is not.

    Args:
        value: texts, numbers, None, and lists, tuples and dictionaries of these.

    """
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {sendable(key): sendable(part) for key, part in value.items()}
    return type(value)(map(sendable, value)) if isinstance(value, (list, tuple)) else value
