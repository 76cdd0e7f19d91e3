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

"""Write a manifest of fetched series, labeled by structured reports."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from monai_weckd.data import DicomReadError, read_classification_sr
from monai_weckd.data.image_files import image_files
from monai_weckd.pacs.index import SeriesIndex, instance_files
from monai_weckd.utils.files import write_atomically
from monai_weckd.utils.tables import table_text

__all__ = ["write_manifest"]


def write_manifest(dataset_dir: Path, reports: Path, output: Path, *, unverified: bool = False) -> Counter[str]:
    """Write a manifest of fetched series with labels from structured reports, and return counts.

    Items are instances. If some report describes a whole series of several instances, a series is one item instead,
    unless only single instances of it have reports. An item's group is the patient, as in ``index.csv``. Items without
    a report are unlabeled.

    Args:
        dataset_dir: folder of fetched series.
        reports: folder of fetched reports; reports that ``ClassificationSRWriter`` did not write are skipped.
        output: the manifest to write.
        unverified: whether to use reports that no person has verified, default False.

    Raises:
        ValueError: When the folder has no series, no report describes one, or two reports of an item differ.

    """
    if not dataset_dir.is_dir() or not (index := SeriesIndex(dataset_dir)).rows:
        raise ValueError(f"dataset_dir: expected fetched series, got none in {dataset_dir}. Run fetch.")
    instances = {uid: [path.stem for path in instance_files(dataset_dir / uid)] for uid in index.rows}
    labels, counts = _labels(reports, instances, unverified=unverified)
    if not labels:
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none"
        raise ValueError(
            f"reports: expected some about images in {dataset_dir}, got {told} in {reports}. See --unverified."
        )
    by_series = any(file in instances for file in labels)
    rows = []
    for series, entry in index.rows.items():
        files = [f"{series}/{uid}.dcm" for uid in instances[series]]
        if series in labels or (by_series and not any(file in labels for file in files)):
            files = [series]
        rows += [{"file": file, "label": labels.get(file, ""), "group": entry.group} for file in files]
    write_atomically(output, table_text(["file", "label", "group"], rows))
    counts["labeled"] = sum(bool(row["label"]) for row in rows)
    counts["unlabeled"] = len(rows) - counts["labeled"]
    return counts


def _labels(reports: Path, instances: dict[str, list[str]], *, unverified: bool) -> tuple[dict[str, str], Counter[str]]:
    """Return the class of each item with a report; reports that a person has verified take precedence."""
    series_of = {uid: series for series, uids in instances.items() for uid in uids}
    verified: dict[str, str] = {}
    others: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for path in image_files(reports):
        try:
            found = read_classification_sr(path)
        except DicomReadError:
            counts["of another kind"] += 1
            continue
        reasons = set()  # a report of a study is one
        for report in found:
            series = series_of.get(report.images[0]) if report.images else None
            if series is None:
                reasons.add("of other images")
            elif not report.predicted:
                reasons.add("of findings")
            elif not (report.verified or unverified):
                reasons.add("unverified")
            else:
                item = series if len(report.images) > 1 else f"{series}/{report.images[0]}.dcm"
                _set(verified if report.verified else others, item, report.predicted)
        counts.update(reasons)
    return {**others, **verified}, counts


def _set(labels: dict[str, str], item: str, label: str) -> None:
    if labels.setdefault(item, label) != label:
        raise ValueError(
            f"reports: expected one class for {item}, got {labels[item]!r} and {label!r}. Remove a report of it."
        )
