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
from collections.abc import Sequence
from typing import Any

from monai_weckd.utils.messages import nearest
from monai_weckd.utils.records import json_digest

__all__ = ["ANEW", "FORMAT", "read_plan_fields"]

FORMAT = 1
ANEW = "Make the plan anew with `python -m monai_weckd plan`."


def read_plan_fields(text: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a plan's JSON, without format and digest, if they are as they were written.

    Args:
        text: the JSON.
        names: names of the fields that there must be.

    Raises:
        ValueError: When it is no JSON object, of another format, has not just these fields, or was changed.

    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"plan: expected JSON, got {error}. {ANEW}") from error
    if not isinstance(content, dict):
        raise ValueError(f"plan: expected a JSON object, got {type(content).__name__}. {ANEW}")
    version = content.pop("format", None)
    if version != FORMAT:
        raise ValueError(f"plan: expected format {FORMAT}, got {version!r}. {ANEW}")
    expected = [*names, "digest"]
    for name in expected:
        if name not in content:
            raise ValueError(f"plan: expected a field {name!r}, got none. {ANEW}")
    for name in content:
        if name not in expected:
            raise ValueError(f"plan: expected no field {name!r}. {nearest(name, expected)}")
    digest, found = content.pop("digest"), json_digest({"format": version, **content})
    if digest != found:
        raise ValueError(f"plan: expected digest {found}, got {digest}: it was changed after it was made. {ANEW}")
    return content
