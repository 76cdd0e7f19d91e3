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

"""Outputs of networks that are more than a tensor."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import ClassVar

import torch

LOGITS, OTHER = torch.zeros(2, 3), torch.ones(2, 5)


Outputs = namedtuple("Outputs", ["logits", "aux"])


@dataclass
class Fields:
    aux: torch.Tensor
    logits: torch.Tensor
    count: ClassVar[int] = 2


class ModelOutput(OrderedDict):
    """A dictionary whose values are attributes as well, as language models return it."""

    @property
    def logits(self):
        return self["logits"]
