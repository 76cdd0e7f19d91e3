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

"""Save a chain's state after each epoch, and resume from it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import monai
import numpy as np
import torch
from ignite.engine import Events
from torch.optim import Optimizer

from monai_weckd.engines.state import Stateful
from monai_weckd.engines.utils import attach_first, check_groups
from monai_weckd.networks.features import unwrap
from monai_weckd.utils.files import finish_writing, load_tensors, pack_state, read_state, write_behind

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer

__all__ = ["ChainCheckpoint"]

logger = logging.getLogger(__name__)

_FORMAT = 3


class ChainCheckpoint:
    """Save a chain's state after each epoch and resume from it; the result is bit-identical to an uninterrupted run.

    ``checkpoint.pt`` in ``output_dir`` holds the networks, the optimizer, the random generators, and the states of the
    chain and of its stateful handlers. Students that :py:class:`ChainRecorder` has written are stored by file name and
    digest. The checkpoint is written atomically while the next epoch runs, verified by its SHA-256 digest before use,
    and deleted when the chain is complete. Embeddings of a frozen backbone are computed again. It works with
    :py:class:`~monai_weckd.engines.ChainDistillationTrainer` and with any trainer that has a :py:class:`ChainHandler`.
    List it last. It does nothing with several processes, or if a chain takes several runs.

    Args:
        output_dir: an existing folder.
        resume: whether to resume from ``checkpoint.pt`` if it exists, default False: an existing one is an error.
        interval: epochs from one checkpoint to the next, default 1.
        settings: further settings that must match on resume, such as the learning rate; values as for JSON. Plan,
            options of the chain, epochs, device type, threads and versions are compared anyway.
        stateful: further objects with a state, by name, such as a scheduler that is not in ``fresh`` or an
            ``EarlyStopHandler``.

    Raises:
        ValueError: When ``interval`` is not positive.

    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        *,
        resume: bool = False,
        interval: int = 1,
        settings: Mapping[str, Any] | None = None,
        stateful: Mapping[str, Stateful] | None = None,
    ) -> None:
        if interval < 1:
            raise ValueError(f"interval: expected 1 epoch or more, got {interval}. With 1 none is trained twice.")
        self.path = Path(output_dir) / "checkpoint.pt"
        self.resume = resume
        self.interval = interval
        self.settings = dict(settings or {})
        self.stateful = dict(stateful or {})
        self._loaded: dict[str, Any] | None = None
        # by name of a file that holds a student: the student and the file's digest
        self._filed: dict[str, tuple[torch.nn.Module, str]] = {}

    def attach(self, engine: SupervisedTrainer) -> None:
        """Register the handler.

        Args:
            engine: the chain's trainer.

        Raises:
            TypeError: When the trainer has no chain.
            ValueError: When ``resume`` is True with several processes, or for a chain of several runs.

        """
        if not hasattr(engine.state, "chain"):
            raise TypeError("engine: expected a trainer with a chain, got one without. List it after ChainHandler.")
        alone = idist.get_world_size() == 1
        if not alone or engine.state.chain.paused(engine):
            if self.resume:
                got = "several runs" if alone else f"{idist.get_world_size()} processes"
                raise ValueError(f"resume: expected False for a chain in {got}, got True. Begin anew.")
            return
        self._identity = self._identify(engine)
        self._known = set(engine.state.chain.parts)
        attach_first(engine, Events.STARTED, self._begin)
        engine.add_event_handler(Events.STARTED, self._put_back)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self._save)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _identify(self, engine: SupervisedTrainer) -> dict[str, str]:
        """Return everything that must match on resume, as text by name."""
        import monai_weckd

        chain = engine.state.chain
        found = {
            "monai_weckd": monai_weckd.__version__,
            "monai": monai.__version__,
            "torch": torch.__version__,
            "device": engine.state.device.type,
            "threads": torch.get_num_threads(),
            **self.settings,
            "max_epochs": engine.state.max_epochs,
            "epoch_length": engine.state.epoch_length,
            **asdict(chain.options),
            "plan": chain.plan.digest,
        }
        return {name: json.dumps(value, sort_keys=True, default=str) for name, value in found.items()}

    def _gather(self, engine: SupervisedTrainer) -> dict[str, Stateful]:
        """Return the objects whose states are loaded after the other start handlers of the run."""
        fresh = {f"fresh {number}": part for number, part in enumerate(engine.state.chain.fresh)}
        scaler = {} if engine.scaler is None else {"scaler": engine.scaler}
        known = {"network": unwrap(engine.network), "optimizer": engine.optimizer, "distiller": engine.state.distiller}
        return {**known, **scaler, **fresh, **{f"stateful {name}": part for name, part in self.stateful.items()}}

    def _begin(self, engine: SupervisedTrainer) -> None:
        """Restore engine, chain and the chain's handlers before any of them starts."""
        if late := set(engine.state.chain.parts) - self._known:
            raise ValueError(
                f"handlers: expected ChainCheckpoint last, got {sorted(late)} after it. Move it to the end."
            )
        finish_writing(self.path)
        if not self.path.exists():
            return
        if not self.resume:
            raise FileExistsError(
                f"{self.path}: expected no interrupted run, got its checkpoint. Pass resume=True, or remove it."
            )
        loaded = read_state(self.path)
        engine.state.chain.take_schedulers(engine)
        self._check(loaded, engine)
        parts, chain = loaded["parts"], engine.state.chain
        place = {name: getattr(engine.state, name) for name in ("epoch_length", "max_epochs")}
        engine.load_state_dict({**place, "iteration": loaded["iteration"]})
        chain.load_state_dict(parts["chain"], read_student=self._from_file)
        for name, part in chain.parts.items():
            part.load_state_dict(parts[name])
        self._loaded = loaded
        logger.info("go on after epoch %d of %d", engine.state.epoch, engine.state.max_epochs)

    def _check(self, loaded: Mapping[str, Any], engine: SupervisedTrainer) -> None:
        if loaded["format"] != _FORMAT:
            raise ValueError(f"{self.path}: expected format {_FORMAT}, got {loaded['format']!r}. Begin anew.")
        before, now = loaded["identity"], self._identity
        for name in [*now, *before]:
            if before.get(name) != now.get(name):
                old, new = _short(before.get(name)), _short(now.get(name))
                raise ValueError(
                    f"{name}: expected {old}, as in the interrupted run, got {new}. "
                    "Change it back, or begin anew with overwrite."
                )
        names = sorted(["chain", *engine.state.chain.parts, *self._gather(engine)])
        if names != sorted(loaded["parts"]):
            raise ValueError(
                f"handlers: expected those of the interrupted run with the states {sorted(loaded['parts'])}, "
                f"got {names}. Change them back, or begin anew with overwrite."
            )

    def _put_back(self, engine: SupervisedTrainer) -> None:
        """Restore weights and generators last, because another start handler may load a pretrained network."""
        if self._loaded is None:
            return
        for name, part in self._gather(engine).items():
            state = self._loaded["parts"][name]
            if isinstance(part, Optimizer):
                check_groups(part, state["param_groups"], others=False)
            part.load_state_dict(state)
        _set_random_state(self._loaded["random"])
        if self._loaded["terminated"]:
            engine.terminate()
        self._loaded = None

    def _save(self, engine: SupervisedTrainer) -> None:
        chain = engine.state.chain
        parts = {name: part.state_dict() for name, part in {**chain.parts, **self._gather(engine)}.items()}
        parts["chain"] = chain.state.state_dict(keep_student=self._in_file)
        state = {
            "format": _FORMAT,
            "identity": self._identity,
            "iteration": engine.state.iteration,
            "terminated": bool(engine.should_terminate),
            "random": _random_state(engine.state.device),
            "parts": parts,
        }
        write_behind(self.path, pack_state(state))

    def _end(self, engine: SupervisedTrainer) -> None:
        finish_writing(self.path)
        self.path.unlink(missing_ok=True)

    def _in_file(self, student: torch.nn.Module, stage: int) -> Mapping[str, Any]:
        """Return the name and digest of the file that holds a student, or its weights if no file does."""
        name, weights = f"stage_{stage}/model.pt", student.state_dict()
        known, digest = self._filed.get(name, (None, ""))
        if known is not student:
            path = self.path.parent / name
            content = path.read_bytes() if path.is_file() else b""
            if not content or not _same(weights, load_tensors(content, path)):
                return {"weights": weights}
            digest = hashlib.sha256(content).hexdigest()
            self._filed[name] = student, digest
        return {"file": name, "digest": digest}

    def _from_file(self, student: Mapping[str, Any]) -> Any:
        if "weights" in student:
            return student["weights"]
        path = self.path.parent / student["file"]
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != student["digest"]:
            raise ValueError(
                f"{path}: expected the student that the checkpoint names, got {'another' if content else 'no'} file. "
                "Restore it from a copy, or begin anew with overwrite."
            )
        return load_tensors(content, path)


def _same(weights: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> bool:
    return weights.keys() == others.keys() and all(
        torch.equal(tensor.cpu(), others[name]) for name, tensor in weights.items()
    )


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy and PyTorch."""
    legacy: dict[str, Any] = dict(np.random.get_state(legacy=False))
    legacy["state"] = {**legacy["state"], "key": legacy["state"]["key"].tolist()}
    state = {"python": random.getstate(), "numpy": legacy, "torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
