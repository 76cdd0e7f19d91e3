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

"""Keys, messages, files and other helpers without dependencies on the rest of the package."""

from __future__ import annotations

from .draws import derive, uniforms
from .enums import UNLABELED
from .errors import first_cause, raising_cause
from .messages import nearest
from .records import json_digest, sealed_json
from .system import available_processors, limit_threads

__all__ = [
    "UNLABELED",
    "available_processors",
    "derive",
    "first_cause",
    "json_digest",
    "limit_threads",
    "nearest",
    "raising_cause",
    "sealed_json",
    "uniforms",
]
