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
from distillation_runs import make_network

from monai_weckd.networks import fingerprint, freeze


def test_freeze_copies_without_wrappers():
    network = make_network().train()
    teacher = freeze(torch.nn.DataParallel(network))
    assert type(teacher) is torch.nn.Sequential
    assert teacher is not network
    assert not teacher.training
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert fingerprint(teacher) == fingerprint(network)
