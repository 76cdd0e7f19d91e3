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

"""Write the bundles' files: all follow the otoscopy bundle, but for what is listed here."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
TEMPLATE = ROOT / "otoscopy_chain_classification"
FILES = (
    *("train", "evaluate", "inference", "metadata", "scratch", "inference_scratch", "compact", "pretrained"),
    *("inference_pretrained", "two_views", "inference_two_views", "paper", "multi_gpu_train", "federated_train"),
    *("local_backbone", "inference_local_backbone"),
)
COPIES = ("configs/logging.conf", "LICENSE")
# a trained network is used where monai_weckd is not installed
DEFINITIONS = [
    ROOT.parent / "monai_weckd" / "networks" / f"{name}.py"
    for name in ("efficientnet_lite", "pooled", "two_views", "local_backbone")
]

LOAD_ANY = {"_target_": "monai_weckd.transforms.LoadMedicalImaged", "keys": "image", "channels": "@channels"}
LOAD_NIFTI = {
    "_target_": "LoadImaged",
    "keys": "image",
    "reader": "NibabelReader",
    "ensure_channel_first": True,
}
LOAD_GRAY = {
    "_target_": "LoadImaged",
    "keys": "image",
    # 16-bit and float gray keep their values: Pillow would clip them
    "reader": "$monai.data.PILReader(converter=lambda image: "
    "ImageOps.exif_transpose(image).convert(image.mode if image.mode[0] in 'IF' else 'L'))",
    "ensure_channel_first": True,
}
# MONAI's readers give columns first; the pretrained filters know pictures with rows first
ROWS_FIRST = {"_target_": "Transposed", "keys": "image", "indices": [0, 2, 1]}
# MR intensities have no unit: each image is scaled by its own foreground
NORMALIZE = {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True}
PLAIN = {"_target_": "EnsureTyped", "keys": "image", "track_meta": False}
VOLUME_GEOMETRY = [
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
    {"_target_": "Spacingd", "keys": "image", "pixdim": "@spacing"},
    {"_target_": "ResizeWithPadOrCropd", "keys": "image", "spatial_size": "@spatial_size"},
    NORMALIZE,
]
MRI_AUGMENTATION = [
    {"_target_": "monai_weckd.transforms.BatchRandFlip"},
    {
        "_target_": "monai_weckd.transforms.BatchRandAffine",
        "rotate_range": 0.3,
        "translate_range": 4,
        "scale_range": 0.15,
    },
    {"_target_": "monai_weckd.transforms.BatchRandScaleIntensity", "prob": 0.8, "factors": 0.3},
    {"_target_": "monai_weckd.transforms.BatchRandShiftIntensity", "prob": 0.8, "offsets": 0.2},
    {"_target_": "monai_weckd.transforms.BatchRandGaussianNoise", "prob": 0.5, "std": 0.1},
]
# a radiograph fills the image; its intensities have no unit either
RADIOGRAPHS = [
    ROWS_FIRST,
    {"_target_": "Resized", "keys": "image", "spatial_size": "@spatial_size", "mode": "area"},
    {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True},
]
SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
LOGITS_OF_FINDINGS = {"_target_": "monai_weckd.losses.DistillationLoss", "multilabel": True}
# the folder of each series
SERIES = "$sorted({p.parent for p in pathlib.Path(@dataset_dir).rglob('*.dcm')})"
# of an overlay: the bundle has no such place
ABSENT = object()
# augmentation of slices ends before the erased patches
WITHOUT_PATCHES = {f"train#augmentation#transforms#4#{key}": ABSENT for key in ("spatial_size", "max_spatial_size")}
# what has no fixed range is kept in half precision; the weights were trained on intensities of this spread
MRI_TRAIN = {"train#dataset#value_range": None, "network_def#network#input_scale": 0.45}
MRI_PRETRAINED = {
    "network_def#input_scale": 0.45,
    "train#augmentation#transforms#1#translate_range": 12,
    **WITHOUT_PATCHES,
}
VOLUME_NETWORK = {"network_def#spatial_dims": 3, "network_def#block_inplanes": [16, 32, 64, 128]}
NO_FLIPS = {"network_def#flip_average": []}
SLICES = [
    ROWS_FIRST,
    {"_target_": "Resized", "keys": "image", "spatial_size": "@spatial_size", "mode": "area"},
    NORMALIZE,
]


def classes(*names: str) -> dict[str, str]:
    """Return class names by index, as metadata wants them."""
    return {str(index): name for index, name in enumerate(names)}


def image(**changes: Any) -> dict[str, Any]:
    """Return the changes to the description of the network's input."""
    return {f"network_data_format#inputs#image#{key}": value for key, value in changes.items()}


def rank_metric(name: str) -> dict[str, Any]:
    """Return a mean over findings of MONAI, from probabilities and values of 0 and 1."""
    return {
        "_target_": name,
        "average": "macro",
        "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
    }


# what a bundle has of its own, by file and place in it; "all" goes into train, evaluate and inference, and "leave_out"
# lists files that are for one class an image
BUNDLES: dict[str, dict[str, Any]] = {
    "blood_smear_chain_classification": {
        "train": {"seed": 0},
        "metadata": {
            "name": "Blood smear chain classification",
            "task": "Classification of peripheral blood cells from few labels",
            "changelog": {"0.1.0": "First version: a chain of three stages on microscopic images of blood cells."},
            "description": "EfficientNet-Lite0 with the weights of ImageNet and a linear head that sorts microscopic "
            "images of single blood cells into eight classes. The head is solved anew in each stage of a chain, whose "
            "model chooses the labels of the next. Not a medical device.",
            "data_source": "Peripheral blood cell images (Acevedo et al., Data in Brief 2020)",
            "image_classes": "RGB image of one cell, any size, resized to 192 x 192, rows first, intensities in "
            "[-1, 1]",
            "pred_classes": "one logit for each of eight classes",
            "references": [
                "WeCKD: Weakly-supervised Chained Distillation Network for Efficient Multimodal Medical Imaging. "
                "arXiv:2510.14668.",
                "Acevedo A. et al. A dataset of microscopic peripheral blood cell images for development of automatic "
                "recognition systems. Data in Brief 30:105474 (2020).",
            ],
            "network_data_format#outputs#pred#num_channels": 8,
            "network_data_format#outputs#pred#channel_def": classes(
                "basophil",
                "eosinophil",
                "erythroblast",
                "ig",
                "lymphocyte",
                "monocyte",
                "neutrophil",
                "platelet",
            ),
            **image(modality="microscopy"),
        },
    },
    "brain_mri_chain_classification": {
        "all": {"channels": 1},
        "train": {
            "seed": 0,
            "train#deterministic_transforms": [
                LOAD_ANY,
                *SLICES,
                PLAIN,
            ],
            **MRI_TRAIN,
        },
        "scratch": {"train#augmentation#transforms": MRI_AUGMENTATION},
        "evaluate": {"preprocessing#transforms": [LOAD_GRAY, *SLICES]},
        "inference": {"preprocessing#transforms": [LOAD_GRAY, *SLICES]},
        "dicom": {"suffixes": [".dcm"], "preprocessing#transforms#0": LOAD_ANY},
        "pretrained": MRI_PRETRAINED,
        "two_views": {"network_def#tuned#input_scale": 0.45},
        "local_backbone": {"network_def#network#input_scale": 0.45},
        "metadata": {
            "name": "Brain MRI chain classification",
            "task": "Classification of brain MRI slices from few labels",
            "changelog": {"0.1.0": "First version: a chain of three stages on slices of brain MRI."},
            "description": "EfficientNet-Lite0 with the weights of ImageNet and a linear head that sorts slices of "
            "brain MRI into three tumors and none. The head is solved anew in each stage of a chain, whose model "
            "chooses the labels of the next. Not a medical device.",
            "data_source": "Brain Tumor Classification (MRI), Bhuvaji et al., Kaggle 2020",
            "data_type": "DICOM, PNG, JPEG, TIFF or BMP",
            "image_classes": "gray slice, any size, resized to 192 x 192, rows first, foreground of mean 0 and "
            "standard deviation 1",
            "references": [
                "WeCKD: Weakly-supervised Chained Distillation Network for Efficient Multimodal Medical Imaging. "
                "arXiv:2510.14668.",
                "Bhuvaji S. et al. Brain Tumor Classification (MRI). Kaggle (2020).",
            ],
            "network_data_format#outputs#pred#channel_def": classes("glioma", "meningioma", "no_tumor", "pituitary"),
            **image(
                format="magnitude",
                modality="MR",
                num_channels=1,
                value_range=[-10, 10],
                channel_def={"0": "image"},
            ),
        },
    },
    "brain_mri_3d_chain_classification": {
        "all": {
            "channels": 1,
            "spatial_size": [40, 56, 40],
            "spacing": [1.0, 1.0, 1.0],
            "network_def#network#spatial_dims": 3,
            "network_def#shrink": [1],
        },
        "train": {
            "seed": 0,
            "datalist#spatial_dims": 3,
            "network": "$@network_def.to(@device)",
            "train#deterministic_transforms": [
                LOAD_ANY,
                *VOLUME_GEOMETRY,
                PLAIN,
            ],
            **MRI_TRAIN,
        },
        "scratch": {
            "spatial_size": ABSENT,
            "batch_size": 8,
            "network": "$@network_def.to(@device, memory_format=torch.channels_last_3d)",
            "train#augmentation#transforms": MRI_AUGMENTATION,
            **VOLUME_NETWORK,
        },
        "inference_scratch": {"spatial_size": ABSENT, **VOLUME_NETWORK},
        "evaluate": {"preprocessing#transforms": [LOAD_NIFTI, *VOLUME_GEOMETRY]},
        "inference": {"preprocessing#transforms": [LOAD_NIFTI, *VOLUME_GEOMETRY], "suffixes": [".nii", ".nii.gz"]},
        "dicom": {"images": SERIES, "preprocessing#transforms#0": LOAD_ANY},
        "pretrained": {
            "spatial_size": ABSENT,
            "network": "$@network_def.to(@device)",
            "network_def#spatial_dims": 3,
            "network_def#input_scale": 0.45,
            "train#augmentation#transforms#1#translate_range": ABSENT,
            **WITHOUT_PATCHES,
        },
        "inference_pretrained": {"network_def#spatial_dims": 3},
        "two_views": {"network_def#tuned#spatial_dims": 3, "network_def#tuned#input_scale": 0.45},
        "local_backbone": {
            "spatial_size": ABSENT,
            "network_def#network#spatial_dims": 3,
            "network_def#network#input_scale": 0.45,
            "network_def#network#slice_axes": [0, 1, 2],
            "network_def#network#slices": 10,
            "network_def#network#slice_size": 112,
            **NO_FLIPS,
            "train#trainer#student_layer": None,
        },
        "inference_local_backbone": {"spatial_size": ABSENT, **NO_FLIPS},
        "inference_two_views": {
            "network_def#solved#network#spatial_dims": 3,
            "network_def#solved#shrink": [1],
            "network_def#tuned#spatial_dims": 3,
        },
        "metadata": {
            "name": "Brain MRI 3D chain classification",
            "task": "Classification of brain MRI volumes from few labels",
            "changelog": {"0.1.0": "First version: a chain of three stages on volumes of brain MRI."},
            "description": "EfficientNet-Lite0, its filters made 3-D, with the weights of ImageNet and a linear head "
            "that sorts MRI volumes of the hippocampus by size. The head is solved anew in each stage of a chain, "
            "whose model chooses the labels of the next. Not a medical device.",
            "data_source": "Medical Segmentation Decathlon Task04 (Simpson et al., arXiv:1902.09063)",
            "data_type": "NIfTI or DICOM series",
            "image_classes": "volume, resampled to 1 mm and padded or cropped to 40 x 56 x 40, foreground of mean 0 "
            "and standard deviation 1",
            "pred_classes": "one logit for each of two classes",
            "references": [
                "WeCKD: Weakly-supervised Chained Distillation Network for Efficient Multimodal Medical Imaging. "
                "arXiv:2510.14668.",
                "Simpson A.L. et al. A large annotated medical image dataset for the development and evaluation of "
                "segmentation algorithms. arXiv:1902.09063 (2019).",
            ],
            "network_data_format#outputs#pred#num_channels": 2,
            "network_data_format#outputs#pred#channel_def": classes("large", "small"),
            **image(
                format="magnitude",
                modality="MR",
                num_channels=1,
                spatial_shape=[40, 56, 40],
                value_range=[-10, 10],
                channel_def={"0": "image"},
            ),
        },
    },
    "chest_xray_chain_classification": {
        "leave_out": ("paper", "multi_gpu_train", "federated_train"),
        "all": {"channels": 1},
        "train": {
            "seed": 0,
            "datalist#findings": True,
            "loss_function": LOGITS_OF_FINDINGS,
            "train#deterministic_transforms": [LOAD_ANY, *RADIOGRAPHS, PLAIN],
            "validate#postprocessing": SIGMOID,
            "validate#additional_metrics": {},
            **MRI_TRAIN,
        },
        "scratch": {
            "train#augmentation#transforms": MRI_AUGMENTATION,
            "loss_function#multilabel": True,
        },
        "pretrained": MRI_PRETRAINED,
        "two_views": {"network_def#multilabel": True, "network_def#tuned#input_scale": 0.45},
        "inference_two_views": {"network_def#multilabel": True},
        "evaluate": {
            "preprocessing#transforms": [
                LOAD_GRAY,
                *RADIOGRAPHS,
                {"_target_": "EnsureTyped", "keys": "label", "dtype": "$torch.float32"},
            ],
            "postprocessing": SIGMOID,
            "key_metric": {"macro_auc": rank_metric("ROCAUC")},
            "additional_metrics": {"macro_average_precision": rank_metric("AveragePrecision")},
        },
        "inference": {
            "preprocessing#transforms": [LOAD_GRAY, *RADIOGRAPHS],
            "postprocessing": SIGMOID,
            "thresholds": "$json.loads(@chain.read_text())['final']['thresholds'] if @chain.exists() else "
            "[0.5] * len(@class_names)",
            "store#output_transform": "$lambda output: [[@guard(item['image'].meta['filename_or_obj']), "
            "@guard('|'.join(name for name, value, limit in zip(@class_names, item['pred'].tolist(), @thresholds) "
            "if limit is not None and value >= limit)), *item['pred'].tolist()] for item in output]",
            "header": "$['file', 'findings', *('probability_' + name for name in @class_names)]",
        },
        "dicom": {"suffixes": [".dcm"], "preprocessing#transforms#0": LOAD_ANY},
        "metadata": {
            "name": "Chest X-ray chain classification",
            "task": "Findings in chest radiographs from few labels",
            "changelog": {"0.1.0": "First version: a chain of three stages on chest radiographs with findings."},
            "description": "EfficientNet-Lite0 with the weights of ImageNet and a linear head that says for each of "
            "several findings how probable it is in a chest radiograph. The head is solved anew in each stage of a "
            "chain, whose model chooses the labels of the next. Not a medical device.",
            "data_source": "Findings as in ChestMNIST (Yang et al., Scientific Data 2023; Wang et al., CVPR 2017)",
            "data_type": "DICOM, PNG, JPEG, TIFF or BMP",
            "image_classes": "gray radiograph, any size, resized to 192 x 192, rows first, mean 0 and standard "
            "deviation 1",
            "label_classes": "0 or 1 for each finding, -1 where it is unknown",
            "pred_classes": "one logit for each of fourteen findings, for a sigmoid",
            "references": [
                "WeCKD: Weakly-supervised Chained Distillation Network for Efficient Multimodal Medical Imaging. "
                "arXiv:2510.14668.",
                "Wang X. et al. ChestX-ray8: Hospital-scale chest X-ray database and benchmarks. CVPR (2017).",
            ],
            "network_data_format#outputs#pred#num_channels": 14,
            "network_data_format#outputs#pred#channel_def": classes(
                *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia"),
                *("pneumothorax", "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
            ),
            **image(
                format="magnitude",
                modality="X-ray",
                num_channels=1,
                value_range=[-10, 10],
                channel_def={"0": "image"},
            ),
        },
    },
}


def put(config: dict[str, Any], place: str, value: Any) -> None:
    """Set the value at a place such as "train#dataset#data"; an overlay's keys may be places, too."""
    for key, part in config.items():
        if isinstance(part, dict) and place.startswith(f"{key}#"):
            return put(part, place.removeprefix(f"{key}#"), value)
    if value is ABSENT:
        del config[place]
    else:
        config[place] = deepcopy(value)


def to_text(config: Any) -> str:
    """Return a configuration as JSON, in which a list of numbers or names, or a single entry, takes one line."""

    def join(match: re.Match[str]) -> str:
        return f"[{', '.join(part.strip() for part in match[1].split(','))}]"

    text = json.dumps(config, indent=4, ensure_ascii=False)
    text = re.sub(r"\[((?:\s*-?[\d.]+,?)+\s*)\]", join, text)
    text = re.sub(r'\[((?:\s*"[@\w]+",?)+\s*)\]', join, text)
    text = re.sub(r'\[\s*("[^"\n,]*")\s*\]', r"[\1]", text)
    return re.sub(r'\{\s*("[^"\n]*": "[^"\n]*")\s*\}', r"{\1}", text) + "\n"


def build() -> dict[Path, str]:
    """Return the text of every generated file."""
    texts = {}
    for name, changes in BUNDLES.items():
        for file in (file for file in FILES if file not in changes.get("leave_out", ())):
            shared = changes.get("all", {}) if file in ("train", "evaluate", "inference") else {}
            config = json.loads((TEMPLATE / "configs" / f"{file}.json").read_text(encoding="utf-8"))
            for place, value in {**shared, **changes.get(file, {})}.items():
                put(config, place, value)
            texts[ROOT / name / "configs" / f"{file}.json"] = to_text(config)
        if "dicom" in changes:
            texts[ROOT / name / "configs" / "dicom.json"] = to_text(changes["dicom"])
        for file in COPIES:
            texts[ROOT / name / file] = (TEMPLATE / file).read_text(encoding="utf-8")
    for bundle in (TEMPLATE.name, *BUNDLES):
        for definition in DEFINITIONS:
            texts[ROOT / bundle / "networks" / definition.name] = definition.read_text(encoding="utf-8")
    return texts


if __name__ == "__main__":
    for path, text in build().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
