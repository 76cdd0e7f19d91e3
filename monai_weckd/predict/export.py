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

"""Export a bundle's model as one file that runs without this package, and say in it what the model is."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.utils import optional_import

from monai_weckd.bundle.identity import describe_transforms
from monai_weckd.networks.teacher import load_program
from monai_weckd.predict.model import PredictionBundle
from monai_weckd.utils.errors import first_cause
from monai_weckd.utils.files import write_atomically
from monai_weckd.utils.records import EXPORT, sealed_json

__all__ = ["FORMATS", "INTERPOLATION", "OUTPUTS", "ExportCheck", "check_format", "export_model", "sample_images"]

OUTPUTS = ("probabilities", "logits")
# of each format: suffix of the file, packages that write and read it
FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "pt2": (".pt2", ()),
    "onnx": (".onnx", ("onnx", "onnxscript", "onnxruntime")),
    "torchscript": (".ts", ()),
}
INTERPOLATION = {"Resized": "area", "Spacingd": "bilinear"}  # MONAI's, where a transform names none
# where the bundle's postprocessing is no softmax, or for findings no sigmoid, its logits are what can be exported
_ADVICE = {"probabilities": "--output logits", "logits": "an inferer that only calls the network"}
_TOLERANCE = 1e-4
_SAMPLES = 8
_INPUT = "image"
_AXES = {2: ("width", "height"), 3: ("x", "y", "z")}


class ExportCheck(NamedTuple):
    """How an exported file compares with its network.

    Args:
        images: number of images that both have seen.
        real: whether these are real images.
        difference: largest difference of an output.
        shape: shape of an image, (C, spatial dimensions).

    """

    images: int
    real: bool
    difference: float
    shape: tuple[int, ...]


class _Probabilities(torch.nn.Module):
    def __init__(self, network: torch.nn.Module, *, findings: bool) -> None:
        super().__init__()
        self.network = network
        self.findings = findings

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.network(image)
        return torch.sigmoid(logits) if self.findings else torch.softmax(logits, dim=1)


def check_format(name: str) -> None:
    """Refuse a format whose packages are not installed.

    Args:
        name: a key of ``FORMATS``.

    Raises:
        ImportError: When one is missing.

    """
    missing = [package for package in FORMATS[name][1] if not optional_import(package)[1]]
    if missing:
        raise ImportError(
            f"format: expected the package {missing[0]} to write {name}, got none. "
            'Install it: pip install "monai-weckd[export]".'
        )


def sample_images(bundle: PredictionBundle, paths: Sequence[str]) -> torch.Tensor:
    """Return up to eight prepared images of one shape, taken evenly from a list, (B, C, spatial dimensions).

    Args:
        bundle: the model.
        paths: the images.

    Raises:
        ValueError: When none of those that were tried can be read.

    """
    found: list[torch.Tensor] = []
    fault = ""
    for path in paths[:: max(1, len(paths) // _SAMPLES)][:_SAMPLES]:
        try:
            found.append(bundle.load(path))
        except ValueError as error:  # others may be read
            fault = str(error)
    if not found:
        raise ValueError(f"dataset_dir: expected images that can be read, got none: {fault}")
    return torch.stack([image for image in found if image.shape == found[0].shape])


def export_model(
    bundle: PredictionBundle, path: Path, *, kind: str, output: str, images: torch.Tensor | None = None
) -> ExportCheck:
    """Write a model as one file that takes batches of any size, and its description beside it, as ``<file>.json``.

    The file is read back and compared with the bundle's own prediction before it gets its name.

    Args:
        bundle: the model, on the CPU.
        path: the file to write.
        kind: a key of ``FORMATS``; :py:func:`check_format` checks its packages.
        output: "probabilities" or "logits".
        images: prepared images to compare on, (B, C, spatial dimensions), default None: random ones.

    Raises:
        ValueError: When the model pools the images of an item, PyTorch cannot export the network, or the file gives
            other numbers than it.
        OSError: When the file cannot be written.

    """
    if bundle.item_level != "image":
        raise ValueError(
            f"ckpt: expected a model of single images, got one that pools all images of each {bundle.item_level}. "
            "Use `python -m monai_weckd predict`."
        )
    real = images is not None
    batch = _random_images(bundle) if images is None else images
    if len(batch) == 1:
        batch = batch.repeat(2, *[1] * (batch.ndim - 1))  # torch.export takes a batch of one for a fixed size
    expected = _expected(bundle, batch, output)
    network = (
        bundle.network if output == "logits" else _Probabilities(bundle.network, findings=bundle.thresholds is not None)
    )
    record = _record(bundle, tuple(batch.shape[1:]), output)
    # MONAI's name for what its own exports keep in TorchScript
    texts = {EXPORT: json.dumps(record), "metadata.json": json.dumps(_metadata(bundle, record))}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"network{FORMATS[kind][0]}"
        try:
            with torch.no_grad(), _quiet():
                _write(network.eval(), batch, file, texts, kind=kind, output=output)
                difference = _difference(file, batch, expected)
        except Exception as error:  # of many classes
            cause = first_cause(error)
            reason = " ".join(str(cause).split())[:200]
            raise ValueError(
                f"format: expected a network that PyTorch can export as {kind}, got {type(cause).__name__}: "
                f"{reason}. Pass another of {tuple(FORMATS)}, or change the network."
            ) from error
        content = file.read_bytes()
    if not difference <= _TOLERANCE:
        raise ValueError(
            f"format: expected the {output} of {bundle.checkpoint} to {_TOLERANCE:g}, got a difference of "
            f"{difference:.2g} in {kind}. Pass another of {tuple(FORMATS)}, or {_ADVICE[output]}."
        )
    write_atomically(path, content)
    told = {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), **record}
    write_atomically(path.with_name(f"{path.name}.json"), sealed_json(told, indent=1))
    return ExportCheck(len(batch), real, difference, tuple(batch.shape[1:]))


def _expected(bundle: PredictionBundle, batch: torch.Tensor, output: str) -> torch.Tensor:
    """Return what the bundle itself makes of a batch."""
    if output == "probabilities":
        return torch.from_numpy(bundle.predict(batch))
    with torch.inference_mode():
        logits: torch.Tensor = bundle.inferer(batch, bundle.network)
    return logits


def _difference(file: Path, batch: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference of a file's outputs, in whole and in single batches, relative to the largest."""
    network, _ = load_program(file)
    with torch.inference_mode():
        found = [network(batch), torch.cat([network(image[None]) for image in batch])]
    if any(each.shape != expected.shape for each in found):
        return float("inf")
    scale = expected.abs().max().clamp_min(1)  # logits may be large
    return max(float(((each - expected).abs() / scale).max()) for each in found)


def _random_images(bundle: PredictionBundle) -> torch.Tensor:
    image = _described_input(bundle)
    config = bundle.config
    channels = config.value("channels") if "channels" in config else image["num_channels"]
    size = config.value("spatial_size") if "spatial_size" in config else image["spatial_shape"]
    if not all(isinstance(length, int) for length in size):
        raise ValueError(
            f"dataset_dir: expected images, since the network takes any size ({size}), got none. Pass some."
        )
    return torch.randn(_SAMPLES, channels, *size, generator=torch.Generator().manual_seed(0))


def _described_input(bundle: PredictionBundle) -> dict[str, Any]:
    found: dict[str, Any] = bundle.metadata["network_data_format"]["inputs"][_INPUT]
    return found


def _record(bundle: PredictionBundle, shape: Sequence[int], output: str) -> dict[str, Any]:
    """Return what somebody needs to know who has the file alone, as values for JSON."""
    if "preprocessing#transforms" not in bundle.config:
        raise ValueError("preprocessing: expected a list of transforms to describe, got none. Write it as a Compose.")
    transforms = describe_transforms("preprocessing#transforms", bundle.config.parser)
    names = [str(name) for name in _described_input(bundle).get("channel_def", {}).values()]
    return {
        "format": 1,
        "bundle": bundle.metadata["name"],
        "version": bundle.metadata["version"],
        "weights_sha256": hashlib.sha256(bundle.checkpoint.read_bytes()).hexdigest(),
        "input": {
            "name": _INPUT,
            "dtype": "float32",
            "axes": ["batch", "channel", *_axes(transforms, len(shape) - 1)],
            "shape": ["batch", *shape],
            "channels": names if len(names) == shape[0] else list(map(str, range(shape[0]))),
        },
        "preprocessing": {**_geometry(transforms), "transforms": transforms},
        "output": output,
        "classes": bundle.classes,
        **({} if bundle.thresholds is None else {"findings": True, "thresholds": bundle.thresholds}),
    }


def _axes(transforms: Sequence[Mapping[str, Any]], count: int) -> list[str]:
    """Return the names of the spatial axes, which MONAI's readers give in the order of x, y and z."""
    names = list(_AXES[count])
    for transform in transforms:
        if transform["_target_"] == "Transposed":
            names = [names[axis - 1] for axis in transform["indices"][1:]]
        elif transform["_target_"] == "Orientationd" and transform.get("axcodes"):
            names = [f"{names[axis]} to {code}" for axis, code in enumerate(transform["axcodes"])]
    return names


def _geometry(transforms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return size, interpolation and treatment of intensities among the transforms."""
    found: dict[str, Any] = {"size": None, "interpolation": None, "intensities": None}
    for transform in transforms:
        name = transform["_target_"]
        if "spatial_size" in transform:
            found["size"] = transform["spatial_size"]
        if name in INTERPOLATION:
            found["interpolation"] = str(transform.get("mode", INTERPOLATION[name]))
        if "Intensity" in name:
            found["intensities"] = {key: value for key, value in transform.items() if key != "keys"}
    return found


def _metadata(bundle: PredictionBundle, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bundle's metadata with the classes and sizes of this model, as MONAI keeps it in TorchScript."""
    metadata = deepcopy(bundle.metadata)
    described = metadata["network_data_format"]
    classes = dict(enumerate(record["classes"]))
    described["inputs"][_INPUT].update(
        num_channels=record["input"]["shape"][1], spatial_shape=record["input"]["shape"][2:]
    )
    described["outputs"]["pred"].update(type=record["output"], num_channels=len(classes), channel_def=classes)
    return metadata


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' remarks on packages that are not needed, and on their own parts that will go."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _write(
    network: torch.nn.Module, batch: torch.Tensor, file: Path, texts: Mapping[str, str], *, kind: str, output: str
) -> None:
    """Export a network with its texts; in ONNX its output has a name, too."""
    if kind == "torchscript":
        script = torch.jit.trace(network, batch, check_trace=False)  # a check of the trace would repeat ours
        torch.jit.save(script, file, _extra_files=dict(texts))
        return
    program = torch.export.export(network, (batch,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    if kind == "pt2":
        torch.export.save(program, file, extra_files=dict(texts))
        return
    names: dict[str, Any] = {"input_names": [_INPUT], "output_names": [output]}
    onnx = torch.onnx.export(program, (batch,), dynamo=True, verbose=False, **names)
    assert onnx is not None
    onnx.model.metadata_props.update(texts)
    onnx.save(file, external_data=False)
