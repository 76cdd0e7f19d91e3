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

"""Classification metrics, bootstrap intervals, calibration, conformal prediction sets, agreement of readers."""

from __future__ import annotations

from monai_weckd.metrics.agreement import agreement, cohen_kappa, fleiss_kappa
from monai_weckd.metrics.classification import (
    ReliabilityBin,
    bootstrap_intervals,
    classification_metrics,
    confusion_counts,
    reliability_bins,
)
from monai_weckd.metrics.conformal import conformal_limit, groups_needed, prediction_sets
from monai_weckd.metrics.findings import (
    FindingTally,
    finding_bins,
    finding_intervals,
    finding_metrics,
    finding_thresholds,
    tally_findings,
)
from monai_weckd.metrics.tally import Tally, mean_defined, tally_predictions

__all__ = [
    "FindingTally",
    "ReliabilityBin",
    "Tally",
    "agreement",
    "bootstrap_intervals",
    "classification_metrics",
    "cohen_kappa",
    "conformal_limit",
    "confusion_counts",
    "finding_bins",
    "finding_intervals",
    "finding_metrics",
    "finding_thresholds",
    "fleiss_kappa",
    "groups_needed",
    "mean_defined",
    "prediction_sets",
    "reliability_bins",
    "tally_findings",
    "tally_predictions",
]
