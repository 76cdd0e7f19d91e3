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

"""Save the most confident errors as pictures, each with its Grad-CAM heat map."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import Dataset
from monai.utils import convert_to_tensor
from monai.visualize import GradCAM, default_upsampler
from PIL import Image

from monai_weckd.networks.features import unwrap
from monai_weckd.utils.messages import nearest
from monai_weckd.utils.progress import progress
from monai_weckd.utils.records import label_columns, probability_classes, read_probabilities
from monai_weckd.visualize.findings import ANSWERS, answer_word, finding_errors

__all__ = ["confident_errors", "layer_fault", "save_error_gallery"]

_PANEL = 360  # pixels of the longer side of a panel
_HEAT_COLOR = np.array([230, 97, 0])


class _Error(NamedTuple):
    """An error to show: position of its row, the output that it is about, its probability, the entry of the JSON."""

    position: int
    output: int
    probability: float
    entry: dict[str, Any]


def confident_errors(rows: Sequence[Mapping[str, Any]], *, limit: int = 9) -> list[int]:
    """Find the wrong predictions on the test split in which the network was most confident.

    Args:
        rows: rows of ``predictions.csv`` by column name; the values may be text, as ``csv.DictReader`` reads them.
        limit: maximum number of errors. Defaults to 9.

    Returns:
        Positions in ``rows``, from the most confident error down; equal probabilities keep the order of ``rows``.

    Raises:
        ValueError: When ``limit`` is negative.

    Example:
        >>> row = {"split": "test", "label": "cat", "predicted": "dog", "probability_dog": 0.7}
        >>> confident_errors([row, {**row, "probability_dog": 0.9}, {**row, "predicted": "cat"}])
        [1, 0]
    """
    if limit < 0:
        raise ValueError(f"limit: expected a number of at least 0, got {limit}. The default is 9.")
    wrong = [i for i, row in enumerate(rows) if row["split"] == "test" and row["label"] != row["predicted"]]
    return sorted(wrong, key=lambda position: -_probability(rows[position]))[:limit]


def layer_fault(network: torch.nn.Module, dataset: Any, *, target_layer: str) -> str | None:
    """Try a layer on the first image: return why it gives no heat map, or None if it gives one.

    Args:
        network: the classifier; it stays untouched.
        dataset: items as for :func:`save_error_gallery`.
        target_layer: name of the module.

    Raises:
        ValueError: When the network has no such module.

    """
    explainer = _explainer(network, target_layer)
    image = convert_to_tensor(dataset[0]["image"], dtype=torch.float32, track_meta=False)
    batch = image[None].to(next(explainer.nn_module.get_wrapped_net().parameters()).device).requires_grad_()
    try:
        _compute_map(explainer, batch, 0)
    except Exception as error:  # hooks and gradients in any network may raise anything
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None


def save_error_gallery(
    network: torch.nn.Module,
    dataset: Dataset,
    rows: Sequence[Mapping[str, Any]],
    *,
    target_layer: str,
    output_dir: str | Path,
    limit: int = 9,
    thresholds: Sequence[float | None] | None = None,
) -> Path:
    """Save the most confidently wrong test images with the Grad-CAM of the predicted class.

    Where an image may show several findings, these are the most confident errors about each, with the Grad-CAM of the
    finding: where the network sees a sign of it, whatever the answer is.

    Each PNG shows the image and, beside it, the same image in gray under its heat map (Selvaraju et al., ICCV 2017).
    A volume shows its middle slice along the last axis. The maps are computed on a copy; ``network`` stays untouched.

    Args:
        network: classifier that made the predictions; it returns logits of shape (1, C) for one image.
        dataset: items aligned with ``rows``, each with a channel-first "image": a picture with rows first, (C, H, W),
            or a volume, (C, W, H, D).
        rows: rows of ``predictions.csv`` by column name. The order of their ``probability_<class>`` columns is the
            order of the network's outputs.
        target_layer: name of the module whose output is weighted, usually the last block with spatial axes, such as
            "layer4" of a ResNet. Autograd refuses a layer in a residual block if the sum overwrites its output.
        output_dir: folder of the run; the files go to its sub-folder ``errors``.
        limit: maximum number of images. Defaults to 9. Of findings there are at most 3 for each.
        thresholds: from which probability on each finding counts as present, see :func:`finding_errors`. Defaults to
            None: an image has one class.

    Returns:
        The path of ``errors/errors.json``, which :func:`write_report` reads.

    Raises:
        ValueError: When ``dataset`` and ``rows`` differ in length, ``target_layer`` is not a module of ``network`` or
            has no spatial axes, an image is not 2-D or 3-D, or ``network`` does not give an image the probability of
            its row.
    """
    if len(dataset) != len(rows):
        raise ValueError(
            f"dataset: expected one item for each of the {len(rows)} rows, got {len(dataset)}."
            " Pass the data set that was predicted, unshuffled."
        )
    explainer = _explainer(network, target_layer)
    folder = Path(output_dir) / "errors"
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    errors = _class_errors(rows, limit) if thresholds is None else _finding_errors(rows, thresholds)
    for number, error in enumerate(progress(errors, "explaining errors", total=len(errors)), start=1):
        file = f"{number:02d}.png"
        image = convert_to_tensor(dataset[error.position]["image"], dtype=torch.float32, track_meta=False)
        heat = _heat_map(explainer, image, error, sigmoid=thresholds is not None)
        Image.fromarray(_side_by_side(image.cpu().numpy(), heat)).save(folder / file)
        entries.append({**error.entry, "probability": error.probability, "file": file})
    path = folder / "errors.json"
    content = {"format": 1, "target_layer": target_layer, "errors": entries}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def _class_errors(rows: Sequence[Mapping[str, Any]], limit: int) -> list[_Error]:
    found = []
    for position in confident_errors(rows, limit=limit):
        row = rows[position]
        entry = {key: row[key] for key in ("id", "label", "predicted")}
        index = probability_classes(row).index(row["predicted"])
        found.append(_Error(position, index, _probability(row), entry))
    return found


def _finding_errors(rows: Sequence[Mapping[str, Any]], thresholds: Sequence[float | None]) -> list[_Error]:
    found = []
    names = probability_classes(rows[0]) if rows else []
    for position, place in finding_errors(rows, names, thresholds):
        row, name = rows[position], names[place]
        (probability,) = read_probabilities(row, [name])
        label, called = ANSWERS[str(row[label_columns([name])[0]])], answer_word(probability, thresholds[place])
        entry = {"id": row["id"], "finding": name, "label": label, "predicted": called}
        found.append(_Error(position, place, probability, entry))
    return found


def _probability(row: Mapping[str, Any]) -> float:
    (found,) = read_probabilities(row, [row["predicted"]])
    return found


def _explainer(network: torch.nn.Module, target_layer: str) -> GradCAM:
    network = unwrap(network)
    names = [name for name, _ in network.named_modules() if name]
    if target_layer not in names:
        raise ValueError(
            f"target_layer: expected the name of a module of the network, got {target_layer!r}."
            f" {nearest(target_layer, names)}"
        )
    # A copy, because GradCAM leaves its hooks and gradients behind and sets every module to the root's mode.
    copy = deepcopy(network).requires_grad_(False).eval()
    for module in copy.modules():
        # An in-place activation after the target layer would overwrite the output that the backward hook holds.
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return GradCAM(copy, target_layer)


def _heat_map(explainer: GradCAM, image: torch.Tensor, error: _Error, *, sigmoid: bool) -> np.ndarray:
    name = error.entry["id"]
    if image.ndim not in (3, 4):
        raise ValueError(
            f"dataset: expected images of shape (C, H, W) or (C, W, H, D), got {tuple(image.shape)} for {name!r}."
            " Add a channel axis or take one time point."
        )
    network = explainer.nn_module.get_wrapped_net()
    # The gradients flow from the image, so the parameters need none.
    batch = image[None].to(next(network.parameters()).device).requires_grad_()
    with torch.no_grad():
        logits = network(batch)
    probability = float((torch.sigmoid(logits) if sigmoid else torch.softmax(logits, 1))[0, error.output])
    # A picture of another item would pass unnoticed; 0.05 leaves room for mixed precision.
    if abs(probability - error.probability) > 0.05:
        raise ValueError(
            f"dataset: expected for {name!r} the probability {error.probability:.3f} of its row, got"
            f" {probability:.3f}. Pass the network and the data set that made the rows, unshuffled."
        )
    heat = default_upsampler(batch.shape[2:])(_compute_map(explainer, batch, error.output))[0, 0].detach().cpu().numpy()
    return heat / heat.max() if heat.max() > 0 else heat


def _compute_map(explainer: GradCAM, batch: torch.Tensor, index: int) -> torch.Tensor:
    with torch.enable_grad():
        heat: torch.Tensor = explainer.compute_map(batch, class_idx=index)
    if heat.ndim != batch.ndim:
        raise ValueError(
            "target_layer: expected a module whose output has the spatial axes of the image, got output of"
            f" {heat.ndim - 2} axes. Name a convolutional layer."
        )
    return heat


def _side_by_side(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    spread = image.max() - image.min()
    image = (image - image.min()) / spread if spread > 0 else np.zeros_like(image)
    if image.ndim == 4:
        image, heat = image[..., image.shape[-1] // 2], heat[..., heat.shape[-1] // 2]
        image, heat = image.swapaxes(1, 2), heat.T  # MONAI has the columns of a volume first
    # an image that is neither gray nor RGB shows its first channel
    picture = np.moveaxis(image if len(image) == 3 else image[:1].repeat(3, 0), 0, -1)
    strength = 0.7 * heat[..., None]
    gray = picture.mean(-1, keepdims=True)
    panels = [_panel(255 * picture), _panel(255 * gray * (1 - strength) + _HEAT_COLOR * strength)]
    gap = np.full((panels[0].shape[0], 8, 3), 255, dtype=np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def _panel(picture: np.ndarray) -> np.ndarray:
    pixels = picture.round().astype(np.uint8)
    scale = _PANEL / max(pixels.shape)
    if scale >= 1:
        # Small images keep square pixels, so that interpolation is not mistaken for detail.
        return pixels.repeat(int(scale), axis=0).repeat(int(scale), axis=1)
    height, width = (max(1, round(scale * side)) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))
