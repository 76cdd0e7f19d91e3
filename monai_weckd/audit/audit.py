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

"""Run all parts of an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monai_weckd.audit.duplicates import exact_duplicates, look_alike_groups, near_duplicates, near_pairs
from monai_weckd.audit.embedding import check_frozen, embedded_images
from monai_weckd.audit.findings import KINDS, Finding
from monai_weckd.audit.labels import judge_labels
from monai_weckd.audit.quality import other_kinds, poor_images, quality_measures
from monai_weckd.audit.results import RunResults, measure_subgroup
from monai_weckd.audit.subgroups import count_rows, item_attributes, subgroups
from monai_weckd.bundle.config import BundleConfig
from monai_weckd.data.datalist import Datalist
from monai_weckd.data.prepared import Preparation
from monai_weckd.data.verify import find_faults
from monai_weckd.plan.label_kind import LabelKind

__all__ = ["Audit", "audit_data"]


@dataclass(frozen=True)
class Audit:
    """What is wrong with a data set.

    Args:
        items: the data list; unreadable items come last.
        kind: the kind of the labels.
        findings: what was found, by kind in the order of ``KINDS``, each kind with the most important first.
        limits: by kind, the limits computed from the data; NaN or absent where there was too little data.
        judged: number of labels that could be checked against the labels of other groups.
        subgroups: a row for each class, split, scanner, site, sex and age of the images that can be used:
            ``attribute``, ``value``, numbers of ``images`` and ``groups``, in all and for each of ``classes``, and the
            ``result`` of a training, None without one. Where labels are findings, ``classes`` has for each of them the
            numbers with it ``present``, ``absent`` and ``unknown``.
        run: the results of that training, default None.

    """

    items: Sequence[Mapping[str, Any]]
    kind: LabelKind
    findings: Sequence[Finding]
    limits: Mapping[str, Mapping[str, float]]
    judged: int
    subgroups: Sequence[Mapping[str, Any]] = ()
    run: RunResults | None = None

    def of_kind(self, kind: str) -> list[Finding]:
        """Return the findings of a kind, in order.

        Args:
            kind: one of ``KINDS``.

        """
        return [finding for finding in self.findings if finding.kind == kind]

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings of each kind."""
        return {kind: len(self.of_kind(kind)) for kind in KINDS}


def audit_data(
    config: BundleConfig,
    datalist: Datalist,
    *,
    columns: Mapping[str, Mapping[str, str]] | None = None,
    run: RunResults | None = None,
) -> Audit:
    """Audit a data set.

    Args:
        config: training configuration of the bundle whose frozen network and preprocessing are used.
        datalist: the items.
        columns: scanner, site, sex and age from the manifest, each with a value by item; default None: none.
        run: the results of a training to measure on each subgroup, default None.

    Raises:
        ValueError: When the bundle's network is not frozen, no image can be read, or an image has another shape than
            the first after preprocessing.

    """
    check_frozen(config)
    for key in ("imports", "initialize"):
        config.value(key)
    faults = find_faults(datalist.items, Preparation(config.value("train#preprocessing"), config.spatial_dims))
    good = [item for item in datalist.items if item["id"] not in faults]
    bad = [item for item in datalist.items if item["id"] in faults]
    if not good:
        raise ValueError(
            f"image: expected readable files, got none of {len(bad)}, "
            f"first {bad[0]['id']!r}: {faults[bad[0]['id']]} Repair them."
        )
    dataset = embedded_images(config, datalist._replace(items=good))
    embeddings, images = dataset.gather(range(len(good))), dataset.images
    unreadable = [
        # a fault may name one file of a series, whose path within the data set is enough
        Finding("unreadable", (place,), faults[item["id"]].replace(item["image"].removesuffix(item["id"]), ""))
        for place, item in enumerate(bad, start=len(good))
    ]
    exact, kept = exact_duplicates(good)
    pairs, near_limits = near_pairs(embeddings, images, good, kept)
    near = near_duplicates(pairs, good)
    labels, judged = judge_labels(embeddings, good, datalist.kind)
    odd, odd_limits = other_kinds(embeddings, good)
    poor, poor_limits = poor_images(quality_measures(images, len(good)))
    return Audit(
        [*good, *bad],
        datalist.kind,
        [*unreadable, *exact, *near, *look_alike_groups([*exact, *near], good), *labels, *odd, *poor],
        {"near_duplicate": vars(near_limits), "other_kind": odd_limits, "quality": poor_limits},
        judged,
        _subgroup_rows(good, datalist.kind, columns or {}, run),
        run,
    )


def _subgroup_rows(
    items: Sequence[Mapping[str, Any]],
    kind: LabelKind,
    columns: Mapping[str, Mapping[str, str]],
    run: RunResults | None,
) -> list[dict[str, Any]]:
    found = subgroups(items, kind, item_attributes(items, columns, run.splits if run else {}))
    return [
        {**row, "result": run and measure_subgroup(run, [items[place] for place in part.places])}
        for part, row in zip(found, count_rows(found, items, kind), strict=True)
    ]
