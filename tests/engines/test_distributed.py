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

from types import SimpleNamespace

import pytest
import torch
from torch import distributed as dist

from monai_weckd.engines.distributed import check_same_on_all_ranks, from_rank_zero, share_weights


def work(rank, folder):
    """Be one of two processes."""
    torch.set_num_threads(1)  # a forked process has none of its parent's other threads
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    network = torch.nn.BatchNorm1d(2)
    network.running_mean.fill_(rank + 1 / 3)
    network.weight.data.fill_(rank + 5)
    share_weights(network)
    check_same_on_all_ranks(SimpleNamespace(digest="the same"))
    with pytest.raises(ValueError, match="plan: expected the same one on all ranks, got 2 different ones"):
        check_same_on_all_ranks(SimpleNamespace(digest=f"that of rank {rank}"))
    result = {
        "number": from_rank_zero(1 / 3 + rank),
        "ids": from_rank_zero(["a", "bc"] if rank == 0 else []),
        "weights": network.state_dict(),
    }
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes told each other; in both of them, another plan on each was refused."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.start_processes(work, args=(str(folder),), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_all_ranks_get_the_value_of_rank_0_as_it_is(ranks):
    for rank in ranks:
        # a third has more digits than single precision
        assert (rank["number"], rank["ids"]) == (1 / 3, ["a", "bc"])


def test_all_ranks_get_weights_and_statistics_of_rank_0(ranks):
    for rank in ranks:
        torch.testing.assert_close(rank["weights"]["running_mean"], torch.full((2,), 1 / 3))
        torch.testing.assert_close(rank["weights"]["weight"], torch.full((2,), 5.0))


def test_a_process_alone_has_its_own_value():
    assert from_rank_zero(1 / 3) == 1 / 3
    check_same_on_all_ranks(SimpleNamespace(digest="any"))
