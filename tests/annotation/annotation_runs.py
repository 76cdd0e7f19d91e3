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

import threading
from pathlib import Path
from types import SimpleNamespace

from monai_weckd.annotation import AnnotatedBundle, AnnotatedChain, Suggestion, find_items
from monai_weckd.annotation.shards import GivenLabels
from monai_weckd.plan.label_kind import LabelKind

OTOSCOPY = Path(__file__).resolve().parents[2] / "bundles" / "otoscopy_chain_classification"
QUIET_CLASSES = ("ill", "Background")
SMALL = {"spatial_size": [64, 64]}
# a chain that is trained step by step
SCRATCH = {"overlays": ["scratch.json"], "max_epochs": 6, "iterations_per_epoch": 3, "batch_size": 8}


def make_bundle(studies, output_dir, *, overlays=(), **changes):
    settings = {**SMALL, **changes}
    return AnnotatedBundle(OTOSCOPY, studies, overlays=overlays, changes=settings, cache_dir=output_dir / "cache")


def make_annotated(studies, output_dir, *, settings=None, **options):
    bundle = make_bundle(studies, output_dir, **(settings or {}))
    return AnnotatedChain(bundle, output_dir, **{"val_fraction": 0.25, **options}), find_items(studies, spatial_dims=2)


def class_of(image_id):
    """Return the class of a phantom, which is its folder."""
    return image_id.split("/")[0]


def label_next(chain, items, labels, count):
    """Label as many images as the chain asks for, as somebody does who knows their classes."""
    for _ in range(count):
        image_id = chain.next(items, labels)[0].id
        labels[image_id] = class_of(image_id)


def label_all(here):
    for number, key in enumerate(sorted(here.items)):
        here.put_label(key, QUIET_CLASSES[number % 2])


class QuietChain:
    """A chain that trains nothing, when it is told to."""

    def __init__(self, output_dir):
        self.bundle = SimpleNamespace(
            kind=LabelKind(QUIET_CLASSES),
            spatial_dims=2,
            item_level="image",
            root=Path("a_bundle"),
            policy="cumulative",
            seed=0,
        )
        self.output_dir, self.val_fraction, self.given = output_dir, 0.25, GivenLabels()
        self.stages, self.accepted, self.unreadable, self.thresholds = [], [], {}, None
        self.go, self.error, self.looked = threading.Event(), None, threading.Event()

    def append_stage(self, items, labels, *, progress, shares):
        progress(1, 2, 3)
        assert self.go.wait(200)
        if self.error is not None:
            raise self.error
        progress(1, 2, 3)
        return {"stage": 1}

    def predictor(self):
        return None

    def next(self, items, labels, *, count):
        return [Suggestion(item["id"], "why", None) for item in items if item["id"] not in labels][:count]

    def score(self, items):
        self.looked.set()

    def knows(self, items):
        return self.looked.is_set()

    def budget(self, labels):
        return len(labels)

    def learn(self, items, labels, shares=None):
        pass

    renew = learn
    live = live_figures = None
