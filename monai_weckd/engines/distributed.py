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

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from monai_weckd.plan.chain_plan import ChainPlan

__all__ = ["check_same_on_all_ranks", "of_rank_0", "share_weights"]


def of_rank_0(value: float) -> float:
    """Return, on every rank, the value that rank 0 passes.

    Args:
        value: this rank's value.

    """
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def share_weights(network: torch.nn.Module) -> None:
    """Give every rank the weights of rank 0: gradients keep parameters alike, but nothing BatchNorm's statistics.

    Args:
        network: the network without its wrappers.

    """
    if dist.is_initialized():
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, src=0)


def check_same_on_all_ranks(plan: ChainPlan) -> None:
    """Make sure that no other rank has made another plan, as from another copy of the data.

    Args:
        plan: this rank's plan.

    Raises:
        ValueError: When one has.

    """
    if not dist.is_initialized():
        return
    digests: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(digests, plan.digest)
    if len(set(digests)) > 1:
        raise ValueError(
            f"plan: expected the same one on all ranks, got {len(set(digests))} different ones. "
            "Give every process the same images and settings."
        )
