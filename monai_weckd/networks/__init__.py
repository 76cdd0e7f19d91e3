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

"""Networks, their features and heads, and teachers from files."""

from __future__ import annotations

from .efficientnet_lite import EfficientNetLite
from .ensemble import ClassExperts, MeanLogits
from .features import FeatureHook, HeadHook, extract, find_head, unwrap
from .freezing import fingerprint, freeze, predict_logits
from .local_backbone import LocalBackbone
from .outputs import TakeOutput
from .pooled import PooledClassifier, StandardizedLinear
from .solved_findings import solve_findings
from .solved_head import SolvedHead, solve_head
from .stored import StoredLogits
from .teacher import ExportedNetwork, OnnxNetwork, load_teacher
from .two_views import TwoViews
from .weights import load_weights, with_weights

__all__ = [
    "ClassExperts",
    "EfficientNetLite",
    "ExportedNetwork",
    "FeatureHook",
    "HeadHook",
    "LocalBackbone",
    "MeanLogits",
    "OnnxNetwork",
    "PooledClassifier",
    "SolvedHead",
    "StandardizedLinear",
    "StoredLogits",
    "TakeOutput",
    "TwoViews",
    "extract",
    "fingerprint",
    "find_head",
    "freeze",
    "load_teacher",
    "load_weights",
    "predict_logits",
    "solve_findings",
    "solve_head",
    "unwrap",
    "with_weights",
]
