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

"""``python -m monai_weckd export``: write a model as one file that runs without this package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_weckd.cli.options import add_model, parse_changes
from monai_weckd.utils.messages import nearest
from monai_weckd.utils.system import limit_threads

if TYPE_CHECKING:
    from monai_weckd.predict.model import PredictionBundle

__all__ = ["add_export"]


def add_export(commands: Any) -> None:
    """Add the command ``export``.

    Args:
        commands: the subparsers of ``python -m monai_weckd``.

    """
    parser = commands.add_parser("export", help="write a model as one file that runs elsewhere", allow_abbrev=False)
    parser.set_defaults(run=_export_model)
    add_model(parser)
    add = parser.add_argument
    add("--format", default="pt2", help="pt2 (torch.export), onnx or torchscript (default: %(default)s)")
    add("--output", default="probabilities", help="what the file gives: probabilities or logits (default: %(default)s)")
    add(
        "--dataset_dir",
        type=Path,
        metavar="DIR",
        help="images to check the file on (default: the bundle's, else noise)",
    )
    add("--to", type=Path, metavar="FILE", help="file to write (default: beside the model)")


def _export_model(args: argparse.Namespace) -> None:
    from monai_weckd.predict.export import FORMATS, OUTPUTS, check_format, export_model, sample_images
    from monai_weckd.predict.model import PredictionBundle

    for name, known in (("format", tuple(FORMATS)), ("output", OUTPUTS)):
        if getattr(args, name) not in known:
            hint = nearest(getattr(args, name), known)
            raise ValueError(f"{name}: expected one of {known}, got {getattr(args, name)!r}. {hint}")
    suffix = FORMATS[args.format][0]
    if args.to is not None and args.to.suffix != suffix:
        raise ValueError(f"to: expected a file with the suffix {suffix} of {args.format}, got {args.to}. Rename it.")
    check_format(args.format)
    limit_threads()
    # the file is to run on any machine
    changes = {**parse_changes(args.set), "device": "cpu"}
    bundle = PredictionBundle(args.bundle, args.ckpt, overlays=args.config_file, changes=changes)
    path = args.to or bundle.checkpoint.with_suffix(suffix)
    paths = _images(args.dataset_dir, bundle)
    what = "classes" if bundle.thresholds is None else "findings"
    print(f"model   {bundle.checkpoint}: {len(bundle.classes)} {what}", flush=True)
    images = sample_images(bundle, paths) if paths else None
    check = export_model(bundle, path, kind=args.format, output=args.output, images=images)
    kind = "images" if check.real else "random images (pass --dataset_dir for real ones)"
    print(
        f"checked on {check.images} {kind}: {args.output} differ by at most {check.difference:.1g} from the network's"
    )
    shape = " x ".join(map(str, check.shape))
    print(f"takes   image, any number x {shape}; gives {args.output}, any number x {len(bundle.classes)}")
    print(f"written {path} and {path.name}.json")


def _images(folder: Path | None, bundle: PredictionBundle) -> list[str]:
    """Return the images to check on: those in a folder, else the bundle's own, if it has any."""
    from monai_weckd.predict.images import list_images

    if folder is not None:
        return list_images(folder, spatial_dims=bundle.spatial_dims)
    own = Path(bundle.config.value("dataset_dir")) if "dataset_dir" in bundle.config else None
    if own is None or not own.is_dir():
        return []
    return list_images(own, spatial_dims=bundle.spatial_dims)
