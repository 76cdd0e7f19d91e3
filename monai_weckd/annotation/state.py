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

"""The state of a labeling session as plain data, for one person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any

from monai_weckd.annotation.readers import Readers
from monai_weckd.annotation.summaries import stage_summary

__all__ = ["session_state"]

LAST = 8


def session_state(session: Any, who: str | None) -> dict[str, Any]:
    """Return the state of images, labels, stages and training, as JSON-compatible data.

    Args:
        session: the :py:class:`~monai_weckd.annotation.AnnotationSession`.
        who: the person who asks, None: unknown. They are not told what they may still read.

    """
    readers = session.readers
    items, given, labels = session.items, session.given, session.labels
    unreadable = {key: reason for key, reason in session.chain.unreadable.items() if key in items}
    counts = Counter(name for label in labels.values() for name in session.store.words.outcomes(label))
    said = Counter(given.values())
    one = "{}=1" if session.kind.findings else "{}"
    entries = {key: entry for key, entry in session.store.entries.items() if key in items}
    return {
        "bundle": session.chain.bundle.root.name,
        "classes": list(session.classes),
        "findings": session.kind.findings,
        "item_level": session.level,
        "thresholds": session.chain.thresholds,
        "images": {
            "total": len(items),
            "labeled": len(labels),
            "set_aside": len(given) - len(labels),
            "unlabeled": len(items) - len(entries) - sum(key not in entries for key in unreadable),
            "disputed": len(entries) - len(given),
            "shared": len(session.shares),
            "waiting": len(readers.waiting(items, who)),
            "unreadable": len(unreadable),
        },
        "unreadable": [{"id": key, "reason": reason} for key, reason in sorted(unreadable.items())],
        "labels": {name: counts[one.format(name)] for name in session.classes},
        "absent": {name: counts[f"{name}=0"] for name in session.store.findings},
        "answers": {name: said[name] for name in session.answers},
        "last_labels": list(islice(_labels(readers, entries, who), LAST)),
        "disagreements": readers.disagreements(items, who),
        "agreement": readers.agreement(items),
        "budget": session.budget(),
        "label_budget": session.label_budget,
        "stages": [stage_summary(stage) for stage in session.chain.stages],
        "training": asdict(session.training),
        "live": session.chain.live_figures,
    }


def _labels(readers: Readers, entries: Mapping[str, Mapping[str, Any]], who: str | None) -> Iterator[dict[str, Any]]:
    """Yield the labels that a person may know, the last one first."""
    for key in reversed(list(entries)):
        label = readers.known_to(key, who)
        if label is not None:
            giver = who if readers.is_blind(key, who) else entries[key].get("who")
            yield {"id": key, "label": label, "who": giver}
