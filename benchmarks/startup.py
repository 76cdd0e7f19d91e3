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

"""P8: measure import times in fresh interpreters."""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median

from benchmarks.harness import ROOT, Result, interleave, ratio

__all__ = ["measure"]


def children() -> float:
    """Return the processor seconds of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(*, quick: bool = False) -> list[Result]:
    """Measure P8: imports in fresh interpreters."""
    codes = {
        "monai.bundle": "import monai.bundle",
        "monai_weckd": "import monai_weckd",
        "engines": "import monai.bundle, monai_weckd.engines, monai_weckd.data.byte_cache, monai_weckd.transforms",
    }

    def start(code: str) -> None:
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True, capture_output=True)

    arms = {name: (lambda code=code: start(code)) for name, code in codes.items()}
    times = interleave(arms, rounds=1 if quick else 7, warm_up=1, clock=children)
    return [
        Result(
            "P8",
            "import monai_weckd / import monai.bundle",
            ratio(times, "monai_weckd", "monai.bundle"),
            1.05,
            note=f"import monai.bundle takes {median(times['monai.bundle']):.1f} CPU seconds",
        ),
        Result(
            "P8",
            "import of monai.bundle with our engines, data and transforms / import monai.bundle",
            ratio(times, "engines", "monai.bundle"),
        ),
    ]
