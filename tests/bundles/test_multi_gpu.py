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

import json
from collections import Counter
from copy import deepcopy
from dataclasses import asdict

import pytest
import torch
import torch.distributed as dist
from bundle_runs import OTOSCOPY, assert_the_gate_fits, multi_gpu, run_ranks, torchrun
from chain_runs import make_chain, make_network
from ignite.engine import Events
from monai.bundle import ConfigParser
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.data import DataLoader

from monai_weckd.data import StageBatchSampler
from monai_weckd.engines import ChainEvents
from monai_weckd.handlers import ChainProgressBar, predict_probabilities
from monai_weckd.networks import fingerprint
from monai_weckd.networks.features import unwrap

# one optimizer step a stage: the first without a teacher, the others with a teacher and a pool
ONE_STEP = {"max_epochs": 3, "epoch_length": 1, "accept": "always", "init": "teacher", "pool_ratio": 1}


@pytest.fixture(scope="module")
def dataset(copy_ears, tmp_path_factory):
    return copy_ears(tmp_path_factory.mktemp("phantom") / "data", 96)


def make_plain_network():
    """Return a network to which a batch is no more than its items: no BatchNorm, no dropout."""
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(8, 3))


def weights_of_stages(network, batch_size):
    """Run a chain of three optimizer steps; returns the weights after each."""
    trainer = make_chain(network=network, batch_size=batch_size, **ONE_STEP)
    weights = []
    trainer.add_event_handler(
        ChainEvents.STAGE_COMPLETED, lambda engine: weights.append(deepcopy(unwrap(engine.network).state_dict()))
    )
    trainer.run()
    return weights


def walk(rank, **options):
    """Run a chain of which a rank left alone would go its own way; returns what it did."""
    bar = ChainProgressBar()
    trainer = make_chain(network=DistributedDataParallel(make_network()), batch_size=4, handlers=[bar], **options)
    evaluator = trainer.walker.evaluator
    if evaluator is not None:
        # on rank 0 the metric rises and each stage is accepted, on rank 1 it falls
        scores = iter(range(100) if rank == 0 else range(0, -100, -1))
        evaluator.add_event_handler(
            Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(val_accuracy=next(scores))
        )
    teachers = []
    trainer.add_event_handler(ChainEvents.STAGE_STARTED, lambda engine: teachers.append(engine.distiller._fingerprint))
    trainer.run()
    records = [{k: v for k, v in asdict(record).items() if k != "seconds"} for record in trainer.records]
    return {
        "plan": trainer.plan.digest,
        "records": records,
        "teachers": teachers,
        "model": fingerprint(unwrap(trainer.network)),
        "bar": bar.progress is not None,
    }


def work(rank, folder):
    """Be one of two processes."""
    torch.set_num_threads(1)  # a forked process has none of its parent's other threads
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    result = {
        "weights": weights_of_stages(DistributedDataParallel(make_plain_network()), batch_size=4),
        "unmeasured": walk(rank, validate=False, accept="always"),
        "measured": walk(rank),
    }
    with pytest.raises(ValueError, match="plan: expected the same one on all ranks, got 2 different ones"):
        make_chain(network=DistributedDataParallel(make_network()), seed=rank).run()
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes did that walked the same chains together."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.start_processes(work, args=(str(folder),), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(ValueError, match="batch_size: expected a multiple of 2, the number of processes, got 5"):
        StageBatchSampler([1, 2], batch_size=5, num_batches=1, seed=0, stage=1, world_size=2)


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("pool_ratio", [0, 1, 3])
def test_each_rank_gets_as_many_labeled_and_pool_items_as_any_other(world_size, pool_ratio):
    options = {"batch_size": 12, "num_batches": 9, "seed": 0, "stage": 1, "pool_ratio": pool_ratio}
    whole = StageBatchSampler(range(7), range(100, 117), **options)
    parts = [
        StageBatchSampler(range(7), range(100, 117), rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sum((Counter(share) for share in shares), Counter()) == Counter(batch)
        for share in shares:
            assert sum(index < 100 for index, _ in share) == 12 // world_size
            assert sum(index >= 100 for index, _ in share) == 12 * pool_ratio // world_size


def test_two_processes_take_the_steps_of_one_with_their_global_batch(ranks):
    alone = weights_of_stages(make_plain_network(), batch_size=8)
    initial = make_plain_network().state_dict()
    assert len(alone) == 3
    for rank in ranks:
        for stage, (expected, actual) in enumerate(zip(alone, rank["weights"], strict=True), start=1):
            for key in expected:
                torch.testing.assert_close(actual[key], expected[key], rtol=0, atol=1e-5, msg=f"stage {stage}, {key}")
                assert (expected[key] - initial[key]).abs().max() > 1e-3


@pytest.mark.parametrize("chain", ["unmeasured", "measured"])
def test_all_ranks_have_the_same_plan_gate_teacher_and_model(ranks, chain):
    first, second = (rank[chain] for rank in ranks)
    for key in ("plan", "records", "teachers", "model"):
        assert first[key] == second[key], key
    assert [record["accepted"] for record in first["records"]] == [True] * 3
    assert first["teachers"][0] is None
    assert len(set(first["teachers"])) == 3


def test_rank_0_alone_shows_progress(ranks):
    assert [rank["measured"]["bar"] for rank in ranks] == [True, False]


def test_rank_0_predicts_without_the_wrapper_that_waits_for_other_ranks():
    wrapper = DataParallel(make_plain_network())
    wrapper.register_forward_pre_hook(lambda *_: pytest.fail("the wrapper was called"))
    loader = DataLoader([{"image": torch.zeros(3, 8, 8), "label": 1}])
    probabilities, labels = predict_probabilities(wrapper, loader, torch.device("cpu"))
    assert (probabilities.shape, labels.tolist()) == ((1, 3), [1])


def run_copies(call):
    """Train with two copies of this process."""
    for rank in run_ranks(call):
        assert rank.returncode == 0, rank.stderr[-6000:]


def run_launcher(call):
    """Train as docs/how-to/multi_gpu.md says it."""
    done = torchrun(call)
    assert done.returncode == 0, done.stderr[-6000:]


@pytest.mark.parametrize("launch", [run_copies, pytest.param(run_launcher, marks=pytest.mark.slow)])
def test_bundle_runs_on_two_processes(launch, dataset, tmp_path):
    output = tmp_path / "output"
    # calibration, which follows the gate, moves the metric
    launch(multi_gpu(OTOSCOPY, dataset, output, **{"chain#calibrate": False}))
    chain = json.loads((output / "chain.json").read_text())
    assert [stage["stage"] for stage in chain["stages"]] == [1, 2, 3]
    assert chain["settings"]["processes"] == 2
    assert_the_gate_fits(chain, output)
    assert (output / "report.html").exists()
    assert len(list(output.rglob("events.out.tfevents.*"))) == 1
    assert not list(output.rglob("*.part"))
    parser = ConfigParser()
    parser.read_config([str(OTOSCOPY / "configs" / f"{name}.json") for name in ("inference", "inference_scratch")])
    parser.read_meta(str(OTOSCOPY / "configs" / "metadata.json"))
    parser["ckpt_path"] = str(output / "model.pt")
    parser.get_parsed_content("network_def").load_state_dict(torch.load(output / "model.pt", weights_only=True))


def test_an_error_on_one_rank_ends_the_run(dataset, tmp_path):
    (tmp_path / "notes.txt").touch()
    # rank 0 alone looks at the folder; the other one waits for it
    first, second = run_ranks(multi_gpu(OTOSCOPY, dataset, tmp_path))
    assert first.returncode == 1
    assert second.returncode != 0
    assert "FileExistsError: output_dir: expected an empty folder" in first.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
