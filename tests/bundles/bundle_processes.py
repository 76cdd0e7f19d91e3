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

"""What runs in a copy of a process; imported by one that knows nothing of monai_weckd, too."""

from __future__ import annotations

import os
import sys

from monai.bundle import run


def run_bundles(calls, blocked=False):
    """Do `monai.bundle run` for each of some arguments; with blocked=True monai_weckd cannot be imported."""
    if blocked:
        assert "monai_weckd" not in sys.modules
        sys.modules["monai_weckd"] = None
    for call in calls:
        run(**call)


def run_rank(rank, call, environment):
    """Do `monai.bundle run` as one of several processes."""
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    run(**call)
