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

"""Load a teacher from a bundle or a file: weights, TorchScript, ``torch.export`` or ONNX."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.utils import optional_import

from monai_weckd.networks.features import unwrap
from monai_weckd.networks.weights import load_weights
from monai_weckd.utils.errors import first_cause
from monai_weckd.utils.literals import literal
from monai_weckd.utils.records import EXPORT, check_keys, model_chain, parse_json
from monai_weckd.utils.tensors import map_tensors

onnxruntime, has_onnxruntime = optional_import("onnxruntime")

__all__ = ["ExportedNetwork", "OnnxNetwork", "load_program", "load_teacher"]

_FLOATS = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}
# position of the argument that selects train mode
_TRAIN_ARGUMENT: dict[Any, int] = {torch.ops.aten.batch_norm.default: 5, torch.ops.aten.dropout.default: 2}


class OnnxNetwork(torch.nn.Module):
    """Wrap an ONNX file as a module for prediction only. Needs ``onnxruntime``.

    Args:
        path: an ONNX file with one input, (B, C, spatial dimensions), in half, single or double precision; its first
            output must be logits, (B, C). If B is fixed, as ``monai.bundle onnx_export`` writes it, batches of any size
            are split, and filled up with copies of the last image.

    Attributes:
        record: what ``python -m monai_weckd export`` wrote into the file, None for other files.

    Raises:
        ImportError: When ``onnxruntime`` is not installed.
        ValueError: When the file cannot be read, or has other inputs or outputs.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path)
        if not has_onnxruntime:
            raise ImportError(
                f"teacher: expected the package onnxruntime to read {path}, got none. "
                "Install it: pip install onnxruntime."
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(os.fspath(path), options)
        except Exception as error:  # of a class of its own for each reason
            raise _unreadable("an ONNX network", self.path, error, advice="Export it in single precision") from None
        inputs, output = self.session.get_inputs(), self.session.get_outputs()[0]
        if [item.type in _FLOATS for item in (*inputs, output)] != [True, True]:
            found = f"{', '.join(f'{item.name}: {item.type}' for item in inputs)} -> {output.name}: {output.type}"
            raise ValueError(
                f"teacher: expected one input and logits, both of floating point type, got {found} in {path}. "
                "Export the network alone, without what precedes and follows it."
            )
        self.input_name, self.dtype = inputs[0].name, _FLOATS[inputs[0].type]
        self.record = _record(self.session.get_modelmeta().custom_metadata_map, self.path)
        # a name or None stands for a dynamic size
        self.shape = [size if isinstance(size, int) else None for size in inputs[0].shape]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, (B, C), on the device of the images.

        Args:
            images: a batch, (B, C, spatial dimensions).

        Raises:
            ValueError: When the file has fixed sizes, and the images have others.

        """
        if len(self.shape) != images.ndim or any(
            size not in (None, own) for size, own in zip(self.shape[1:], images.shape[1:], strict=True)
        ):
            raise _wrong_images(self.path, self.shape, images)
        array = torch.as_tensor(images.detach()).as_subclass(torch.Tensor).cpu()
        logits: torch.Tensor = _in_batches(self._run, array, self.shape[0])
        return logits.to(images.device)

    def _run(self, images: torch.Tensor) -> torch.Tensor:
        array = images.contiguous().numpy().astype(self.dtype, copy=False)
        return torch.from_numpy(self.session.run(None, {self.input_name: array})[0])


class ExportedNetwork(torch.nn.Module):
    """Wrap a ``.pt2`` file of ``torch.export``, for prediction only. It is a program: load it only if you trust it.

    Args:
        path: the file, of a network that was exported in eval mode with one input, (B, C, spatial dimensions). If B is
            fixed, batches of any size are split, and filled up with copies of the last image.

    Attributes:
        record: what ``python -m monai_weckd export`` wrote into the file, None for other files.

    Raises:
        ValueError: When the file cannot be read, has other inputs, or was exported in train mode.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path)
        if not zipfile.is_zipfile(path):  # PyTorch would log a traceback first
            raise _unreadable("a network of torch.export", self.path, zipfile.BadZipFile("File is not a zip file"))
        texts: dict[str, Any] = {EXPORT: ""}
        try:
            exported = torch.export.load(path, extra_files=texts)
            self.program = exported.module()
        except Exception as error:  # anything may be raised for damaged bytes
            raise _unreadable("a network of torch.export", self.path, error) from None
        inputs = [
            node.meta["val"]
            for node in exported.graph.nodes
            if node.op == "placeholder" and node.name in exported.graph_signature.user_inputs
        ]
        if len(inputs) != 1:
            raise ValueError(f"teacher: expected one input, got {len(inputs)} in {path}. Export it for images alone.")
        if exported.graph_signature.buffers_to_mutate or any(map(_trains, exported.graph.nodes)):
            raise ValueError(
                f"teacher: expected a network that was exported in eval mode, got one in train mode in {path}. "
                "Call network.eval() before torch.export.export."
            )
        self.record = _record(texts, self.path)
        self.shape = [size if isinstance(size, int) else None for size in inputs[0].shape]
        self.training = False

    def train(self, mode: bool = True) -> ExportedNetwork:
        """Keep the mode in which the network was exported, which is part of its graph.

        Args:
            mode: not used.

        """
        return self

    def forward(self, images: torch.Tensor) -> Any:
        """Return what the network returns.

        Args:
            images: a batch, (B, C, spatial dimensions).

        Raises:
            ValueError: When the images have other sizes than those for which the network was exported.

        """
        try:
            return _in_batches(self.program, images.as_subclass(torch.Tensor), self.shape[0])
        except (AssertionError, RuntimeError) as error:
            raise _wrong_images(self.path, self.shape, images) from error


def _trains(node: torch.fx.Node) -> bool:
    """Return whether an operation is one of train mode."""
    place = _TRAIN_ARGUMENT.get(node.target)
    return place is not None and len(node.args) > place and node.args[place] is True


def _in_batches(run: Callable[[torch.Tensor], Any], images: torch.Tensor, size: int | None) -> Any:
    """Return a network's output for all images, if it takes only batches of one size; None: it takes any."""
    if size is None or size == len(images):
        return run(images)
    parts = []
    for chunk in images.split(size):
        missing = size - len(chunk)
        parts.append(run(torch.cat([chunk, chunk[-1:].expand(missing, *chunk.shape[1:])]) if missing else chunk))
    return map_tensors(lambda *tensors: torch.cat(tensors)[: len(images)], *parts)


def _wrong_images(path: Path, shape: Sequence[int | None], images: torch.Tensor) -> ValueError:
    expected = ", ".join("any" if size is None else str(size) for size in shape)
    return ValueError(
        f"teacher: expected images of shape ({expected}), for which {path} was exported, got {tuple(images.shape)}. "
        "Export it for these, or resize them in teacher_transform."
    )


def _unreadable(kind: str, path: Path, error: Exception, *, advice: str = "Export it again") -> ValueError:
    cause = first_cause(error)
    reason = " ".join(str(cause).split())[:150]
    # PyTorch's advice to unpickle a file must not be followed
    reason = type(cause).__name__ if "weights_only" in reason or not reason else f"{type(cause).__name__}: {reason}"
    return ValueError(
        f"teacher: expected {kind}, got what cannot be read as one in {path} ({reason}). "
        f"{advice}, or pass another file."
    )


def load_teacher(
    source: torch.nn.Module | str | os.PathLike[str],
    *,
    network: torch.nn.Module | None = None,
    classes: Sequence[str] | None = None,
) -> torch.nn.Module:
    """Load a teacher from a network, a bundle or a file.

    Args:
        source: a network, which is returned unchanged; the folder of a MONAI bundle, with its ``network_def`` and
            ``models/model.pt``; a TorchScript file; a ``.pt2`` file of ``torch.export``; an ``.onnx`` file; or a file
            with weights, see :py:func:`~monai_weckd.networks.load_weights`. A bundle's configuration, a TorchScript and
            a ``.pt2`` file are programs: load only those that you trust. If ``python -m monai_weckd export`` wrote it
            with probabilities, the teacher returns their logarithms, which are logits.
        network: the network whose copy gets the weights of a file, default None: no network.
        classes: the student's class names in the order of their indices. The teacher's must be equal, if they are known
            from ``chain.json`` beside the weights, from a bundle's metadata, or from an exported file. Default None:
            not compared. Teacher and student may see different inputs: see ``teacher_transform`` of the trainer.

    Raises:
        TypeError: When it is neither a network nor a path.
        FileNotFoundError: When there is no such file or folder, or no model in the bundle.
        ValueError: When the file cannot be read, there is no network for its weights, or they belong to another one.
        ValueError: When the teacher has other classes, or the same in another order.
        ImportError: When the package that reads the file is not installed.

    """
    check_source(source)
    if isinstance(source, torch.nn.Module):
        return source
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"teacher: expected a network, a bundle's folder or a file, got {path}, which is not there. Check the path."
        )
    if path.is_dir():
        weights = _found(path, "models/model.pt")
        if classes is not None and model_chain(weights) is None:
            _check_classes(classes, _bundle_classes(path), path)
        return load_teacher(weights, network=_bundle_network(path), classes=classes)
    if path.suffix.lower() in _PROGRAMS or _is_script(path):
        return _exported_teacher(path, classes)
    if network is None:
        raise ValueError(f"network: expected the network of the weights in {path.name}, got None. Pass its definition.")
    chain = model_chain(path)
    if classes is not None and chain is not None:
        _check_classes(classes, chain["classes"], path)
    network = deepcopy(unwrap(network))
    load_weights(network, path, name="teacher")
    return network


def check_source(source: Any) -> None:
    """Refuse what is no teacher.

    Args:
        source: a network, or the path of a bundle or a file.

    Raises:
        TypeError: When it is neither.

    """
    if not isinstance(source, (torch.nn.Module, str, os.PathLike)):
        raise TypeError(
            f"teacher: expected a network, a bundle's folder or a file, got {type(source).__name__}. "
            "Pass one torch.nn.Module; several are one as monai_weckd.networks.MeanLogits."
        )


_PROGRAMS: dict[str, Callable[[Path], OnnxNetwork | ExportedNetwork]] = {".onnx": OnnxNetwork, ".pt2": ExportedNetwork}


def load_program(path: Path) -> tuple[torch.nn.Module, dict[str, Any] | None]:
    """Load an exported network, and what ``python -m monai_weckd export`` wrote into its file, None for other files.

    Args:
        path: an ``.onnx``, a ``.pt2`` or a TorchScript file.

    Raises:
        ImportError: When the package that reads the file is not installed.
        ValueError: When the file cannot be read.

    """
    if path.suffix.lower() in _PROGRAMS:
        network = _PROGRAMS[path.suffix.lower()](path)
        return network, network.record
    texts: dict[str, Any] = {EXPORT: ""}
    try:
        script: torch.nn.Module = torch.jit.load(os.fspath(path), map_location="cpu", _extra_files=texts)
    except Exception as error:  # anything may be raised for damaged bytes
        raise _unreadable("a TorchScript network", path, error) from None
    return script, _record(texts, path)


def _record(texts: Mapping[str, str | bytes], path: Path) -> dict[str, Any] | None:
    """Return the record among the texts inside an exported file."""
    if not texts.get(EXPORT):
        return None
    where = f"{path}: {EXPORT}"
    record: dict[str, Any] = parse_json(texts[EXPORT], where=where)
    check_keys(record, ["classes", "output"], where=where)
    return record


class _LogProbabilities(torch.nn.Module):
    """Turn the probabilities of a softmax into logits: a softmax of the logarithms gives them back."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.network(images)
        return found.clamp_min(torch.finfo(found.dtype).tiny).log()


def _exported_teacher(path: Path, classes: Sequence[str] | None) -> torch.nn.Module:
    network, record = load_program(path)
    if record is None:
        return network
    if classes is not None:
        _check_classes(classes, record["classes"], path)
    if record.get("findings") and record["output"] != "logits":
        raise ValueError(f"{path}: expected the logits of findings, got probabilities. Export it by --output logits.")
    return network if record["output"] == "logits" else _LogProbabilities(network)


def _check_classes(classes: Sequence[str], found: Sequence[str], path: Path) -> None:
    if list(found) != list(classes):
        raise ValueError(
            f"teacher: expected the student's classes {list(classes)} in their order, got {list(found)} in {path}. "
            "Use the teacher's order for the student's data."
        )


def _bundle_classes(folder: Path) -> list[str]:
    """Return the names of the outputs in a bundle's metadata."""
    metadata = ConfigParser.load_config_file(_found(folder, "configs/metadata.json"))
    return [str(name) for name in metadata["network_data_format"]["outputs"]["pred"]["channel_def"].values()]


def _found(folder: Path, *names: str) -> Path:
    """Return the first of these files that a bundle has."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"teacher: expected a bundle with {' or '.join(names)}, got {folder} without. Train it, or pass another one."
    )


def _bundle_network(folder: Path) -> torch.nn.Module:
    parser = ConfigParser()
    config = _found(folder, "configs/inference.json", "configs/train.json")
    try:
        if (folder / "configs" / "metadata.json").is_file():
            parser.read_meta(folder / "configs" / "metadata.json")
        parser.read_config(config)
        parser["bundle_root"] = literal(str(folder))
        network: torch.nn.Module = parser.get_parsed_content("network_def")
    except Exception as error:  # a configuration is a program
        reason = " ".join(str(first_cause(error)).split())[:200]
        raise ValueError(
            f"teacher: expected a network_def that can be built in {config}, got {type(first_cause(error)).__name__}: "
            f"{reason}. Repair the bundle, or pass the network itself."
        ) from error
    return network


def _is_script(path: Path) -> bool:
    """Return whether a zip archive holds TorchScript code rather than a plain ``state_dict``."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
