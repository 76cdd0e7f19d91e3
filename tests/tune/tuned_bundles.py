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

from pathlib import Path

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
OTOSCOPY = BUNDLES / "otoscopy_chain_classification"
SMALL = {
    "max_epochs": 3,
    "iterations_per_epoch": 2,
    "batch_size": 8,
    "label_fraction": 0.2,
    "spatial_size": [32, 32],
}
VALUES = {"learning_rate": 2e-3, "distillation_weight": 0.4, "temperature": 3.0}
