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

"""Helpers that keep several processes in agreement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import ignite.distributed as idist
import torch

if TYPE_CHECKING:
    from monai_weckd.plan.chain_plan import ChainPlan

__all__ = ["check_same_on_all_ranks", "from_rank_zero", "share_weights"]

Value = TypeVar("Value")


def from_rank_zero(value: Value) -> Value:
    """Return the value of rank 0 on every rank.

    Args:
        value: this rank's value: a number, which keeps its precision, or any picklable object.

    """
    # gathered as an object, since Ignite broadcasts numbers in single precision and cannot broadcast lists
    values: Any = idist.all_gather([value])
    first: Value = values[0][0]
    return first


def share_weights(network: torch.nn.Module) -> None:
    """Copy the weights of rank 0 to every rank: gradients synchronize parameters, but not BatchNorm's statistics.

    Args:
        network: the network without its wrappers.

    """
    for tensor in network.state_dict().values():
        # Ignite broadcasts a copy if the network is not on the device of its backend
        shared: Any = idist.broadcast(tensor)
        tensor.copy_(shared)


def check_same_on_all_ranks(plan: ChainPlan) -> None:
    """Make sure that all ranks have the same plan; copies of the data may differ.

    Args:
        plan: this rank's plan.

    Raises:
        ValueError: When the plans differ.

    """
    gathered: Any = idist.all_gather(plan.digest)
    count = len(set(gathered))
    if count > 1:
        raise ValueError(
            f"plan: expected the same one on all ranks, got {count} different ones. "
            "Give every process the same images and settings."
        )
