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

"""Add classes to a chain that exists: what its students know stays, and their heads grow."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from monai_weckd.annotation.chain_folder import students_of
from monai_weckd.annotation.order import Scores
from monai_weckd.annotation.status import StageRunningError
from monai_weckd.annotation.training import AnnotatedBundle
from monai_weckd.utils.files import load_tensors, state_bytes, write_atomically
from monai_weckd.utils.records import OUT_OF_FOLD, label_columns, probability_columns, sealed_json

__all__ = ["computing_waits", "grow_chain", "grow_scored"]

_FAR = 5.0  # how far the bias of a new class is below 0 and the least of the others, in logits
_RECORDS = ("chain.json", "plan.json")
_PATIENCE = 10.0  # seconds
_OLD = ("scores.npz", "features.npy")  # made by the students as they were


def grow_chain(source: Path, target: Path, classes: Sequence[str], *, head: str) -> None:
    """Write a copy of a chain whose students have outputs for further classes, which come last.

    The weights of a new class are zero and its bias is low, so that its probability is too, until a stage has learned
    it. Records and digests follow; the probability of a new class in tables is 0.

    Args:
        source: output folder of the chain.
        target: the new folder, which must not exist.
        classes: all class names, those of the chain first.
        head: name of the students' head in their ``state_dict``, a linear layer.

    Raises:
        ValueError: When a student has no such head, or one of another number of classes.

    """
    chain = json.loads((source / "chain.json").read_text(encoding="utf-8"))
    added = list(classes[len(chain["classes"]) :])
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_OLD))
    digests = {}
    for path in sorted(target.rglob("model.pt")):
        content = path.read_bytes()
        state = _grown(load_tensors(content, path), head, len(chain["classes"]), len(added))
        grown = state_bytes(state)
        digests[hashlib.sha256(content).hexdigest()] = hashlib.sha256(grown).hexdigest()
        path.unlink()
        write_atomically(path, grown)
    for path in (target / name for name in _RECORDS):
        if path.is_file():
            _rewrite(path, list(classes), digests)
    for path in (*target.rglob(OUT_OF_FOLD), target / "predictions.csv"):
        if path.is_file():
            told = dict.fromkeys(label_columns(added), "") if chain.get("findings") else {}
            _add_columns(path, {**told, **dict.fromkeys(probability_columns(added), "0")})


def grow_scored(source: Path, target: Path, bundle: AnnotatedBundle) -> None:
    """Write a copy of a chain with all classes of a bundle, see :py:func:`grow_chain`, and of its scores.

    Args:
        source: output folder of the chain.
        target: the new folder; what an interruption has left there is replaced.
        bundle: the bundle.

    Raises:
        ValueError: When the head of a student cannot grow.

    """
    shutil.rmtree(target, ignore_errors=True)
    try:
        grow_chain(source, target, bundle.classes, head=bundle.head)
        scores, students = Scores.load(source, next(reversed(students_of(source)), "")), students_of(target)
        if students and scores.ids:
            digest, student = [*students.items()][-1]
            probabilities = bundle.classify(scores.features, student)
            replace(scores, made_by=digest, probabilities=probabilities).save(target)
    except Exception:
        shutil.rmtree(target, ignore_errors=True)
        raise


@contextmanager
def computing_waits(output_dir: Path) -> Iterator[None]:
    """Keep a chain's computations waiting; those that run are waited for, for some seconds.

    Args:
        output_dir: folder of the chain.

    Raises:
        StageRunningError: When they take longer.

    """
    try:
        held = FileLock(output_dir / "compute.lock").acquire(timeout=_PATIENCE)
    except Timeout:
        raise StageRunningError(
            "class: expected no images that are being examined, got some. Add it again in a while."
        ) from None
    with held:
        yield


def _grown(state: dict[str, torch.Tensor], head: str, before: int, more: int) -> dict[str, torch.Tensor]:
    weight, bias = state.get(f"{head}.weight"), state.get(f"{head}.bias")
    if weight is None or bias is None or weight.ndim != 2 or len(weight) != before:
        raise ValueError(
            f"classes: expected a student whose head {head!r} is linear with {before} outputs, got another. "
            "Begin a chain with all classes in another output folder."
        )
    rows = weight.new_zeros(more, weight.shape[1])
    low = (bias.min().clamp(max=0) - _FAR).expand(more)
    return {**state, f"{head}.weight": torch.cat([weight, rows]), f"{head}.bias": torch.cat([bias, low])}


def _rewrite(path: Path, classes: list[str], digests: dict[str, str]) -> None:
    """Let a record name the new classes and students."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    sealed = content.pop("digest", None) is not None
    if "classes" in content:
        content["classes"] = classes
    for record in (*content.get("stages", ()), content.get("final", {})):
        if isinstance(record, dict) and record.get("sha256") in digests:
            record["sha256"] = digests[record["sha256"]]
        if isinstance(record, dict) and "thresholds" in record:  # of findings; a new one is never called present
            record["thresholds"] += [None] * (len(classes) - len(record["thresholds"]))
    write_atomically(path, sealed_json(content, indent=2) if sealed else json.dumps(content, indent=2) + "\n")


def _add_columns(path: Path, values: Mapping[str, str]) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    place = max((at + 1 for at, name in enumerate(header) if name.startswith("probability_")), default=len(header))
    text = io.StringIO(newline="")
    extended = [[*header[:place], *values, *header[place:]]]
    extended += [[*row[:place], *values.values(), *row[place:]] for row in rows]
    csv.writer(text).writerows(extended)
    path.unlink()
    write_atomically(path, text.getvalue())
