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

from monai_weckd.costs.estimate import StepCosts

COSTS = StepCosts(
    step=0.02,
    pool_step=0.05,
    teacher=0.007,
    pool_teacher=0.03,
    validate=0.001,
    load=0.004,
    base_bytes=10**8,
    network_bytes=4000,
    training_bytes=12_000,
    activation_bytes=50_000,
    item_bytes=300,
)


OPTIONS = {"max_epochs": 12, "epoch_length": 10, "batch_size": 4}
