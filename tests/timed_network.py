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

import torch


class Timed(torch.nn.Sequential):
    """A network with a clock, which goes on by a second for each image that is looked at, and by three in training."""

    now = 0.0

    def forward(self, x):
        Timed.now += len(x) * (3 if self.training else 1)
        return super().forward(x)
