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

"""Let several readers label the same images, blind, and say how well they agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monai_weckd.annotation.label_words import agreed, known_findings
from monai_weckd.annotation.order import Suggestion
from monai_weckd.annotation.readings import check_policy, decision, is_wanted, readings_of, shares_of
from monai_weckd.annotation.store import LabelStore
from monai_weckd.metrics import agreement
from monai_weckd.plan.splits import group_of
from monai_weckd.utils.draws import hash_fraction

__all__ = ["Readers"]


_BLIND = "read twice, so you see neither another label nor the model's opinion"


class Readers:
    """Which images are read twice, and what their readers say.

    An image is read twice if the hash of its id says so, whoever labels it first. Nobody sees the label of another
    person, or the model's opinion, before it is read.

    Args:
        store: the labels.
        share: share of the images that are read twice, in [0, 1].
        policy: what becomes of disagreements: "settle" lists them for people to settle; "majority" has a third person
            read them first; "soft", for classes, too, and the image trains with the shares of its readings.
        seed: seed of the draw.

    Raises:
        ValueError: When the share is out of range, there is no such policy, or it is "soft" and images have findings.

    """

    def __init__(self, store: LabelStore, *, share: float, policy: str, seed: int) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"read_twice: expected a share in [0, 1], got {share}. Pass e.g. 0.1.")
        check_policy(policy, findings=store.findings)
        self.store, self.share, self.policy, self.seed = store, share, policy, seed
        self._agreement: tuple[Any, dict[str, Any] | None] = (None, None)

    def is_blind(self, image_id: str, who: str | None) -> bool:
        """Return whether a person labels an image without knowing what others, or the model, say.

        Args:
            image_id: id of the image.
            who: the person.

        """
        return self._is_double(image_id) and self._is_wanted(self.store.info(image_id), who)

    def _is_wanted(self, entry: Mapping[str, Any], who: str | None) -> bool:
        return is_wanted(entry, who, self.policy, findings=self.store.findings)

    def _decision(self, entry: Mapping[str, Any]) -> str | None:
        return decision(entry, self.policy, findings=self.store.findings)

    def _is_double(self, image_id: str) -> bool:
        return self.share > 0 and hash_fraction(self.seed, "read twice", image_id) < self.share

    def known_to(self, image_id: str, who: str | None) -> str | None:
        """Return the label of an image that a person may know, None if there is none.

        Args:
            image_id: id of the image.
            who: the person.

        """
        entry = self.store.info(image_id)
        if not self.is_blind(image_id, who):
            return self._decision(entry) if entry else None
        readings = readings_of(entry)
        return readings.get(who) if readings or entry.get("who") != who else entry.get("label")

    def is_own(self, image_id: str, who: str | None) -> bool:
        """Return whether the label that a person may know is their own.

        Args:
            image_id: id of the image.
            who: the person.

        """
        entry = self.store.info(image_id)
        readings = {} if entry.get("settled") else readings_of(entry)
        return bool(entry) and who in (readings or [entry.get("who")])

    def put(
        self, image_id: str, label: str | Mapping[str, Any], *, who: str | None, settle: bool, **options: Any
    ) -> str | None:
        """Label an image, as one of its readers where it is read twice; see :py:meth:`LabelStore.put`.

        Args:
            image_id: id of the image.
            label: the class or answer.
            who: the person.
            settle: whether this decides between the readings that there are.
            options: further arguments of the store.

        """
        several = bool(readings_of(self.store.info(image_id)))
        reading = self.is_blind(image_id, who) and not (settle and several)
        return self.store.put(image_id, label, who=who, reading=reading, settle=several and not reading, **options)

    def decided(self) -> dict[str, str]:
        """Return the label of each image that counts, in the order in which they were given."""
        found = {key: self._decision(entry) for key, entry in self.store.entries.items()}
        return {key: label for key, label in found.items() if label is not None}

    def shared(self) -> dict[str, dict[str, float]]:
        """Return the share of each class in the readings of images that train with them, by policy "soft"."""
        if self.policy != "soft":
            return {}
        found = {key: shares_of(entry) for key, entry in self.store.entries.items() if "readings" in entry}
        return {key: shares for key, shares in found.items() if len(shares) > 1}

    def waiting(self, images: Iterable[str], who: str | None) -> list[str]:
        """Return the images that somebody else has read, and that wait for a reading of this person.

        Args:
            images: ids of all images.
            who: the person.

        """
        if not self.share:
            return []
        entries, known = self.store.entries, set(images)
        return [
            key
            for key, entry in entries.items()
            if key in known
            and self._is_double(key)
            and who not in (readings_of(entry) or [entry.get("who")])
            and self._is_wanted(entry, who)
        ]

    def in_turn(self, chosen: Iterable[Suggestion], images: Iterable[str], who: str | None) -> list[Suggestion]:
        """Return what a person may label next: what waits for their reading, then what was chosen.

        Args:
            chosen: by the chain.
            images: ids of all images.
            who: the person.

        """
        second = [Suggestion(key, _BLIND, None) for key in self.waiting(images, who)]
        return second + [Suggestion(one.id, _BLIND, None) if self.is_blind(one.id, who) else one for one in chosen]

    def disagreements(self, images: Iterable[str], who: str | None) -> list[dict[str, Any]]:
        """Return the images whose readers differ, and that nothing has decided, with what each of them says.

        Args:
            images: ids of all images.
            who: the person who asks, who is not told of an image that they may still read.

        """
        known, found = set(images), []
        for key, entry in self.store.entries.items():
            readings = readings_of(entry)
            unread = self._is_wanted(entry, who) and who not in readings
            if key in known and readings and not unread and self._decision(entry) is None:
                said = [{"who": reader, "label": label} for reader, label in readings.items()]
                found.append({"id": key, "readings": said})
        return found

    def agreement(self, items: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
        """Return how well readers agree, see :py:func:`monai_weckd.metrics.agreement`; None if nothing is read twice.

        Where images have findings, ``of`` has the agreement on each finding that two readers know.

        Args:
            items: all images by their id.

        """
        entries = {key: entry for key, entry in self.store.entries.items() if key in items}
        twice = {key: said for key, entry in entries.items() if len(said := readings_of(entry)) > 1}
        if not twice:
            return None
        key = str(twice)
        if self._agreement[0] != key:
            named = [{reader or "": label for reader, label in said.items()} for said in twice.values()]
            groups = [group_of(items[one]) for one in twice]
            names = self.store.findings
            found = _of_findings(named, groups, names) if names else agreement(named, groups)
            self._agreement = key, found
        return self._agreement[1]


def _of_findings(named: Sequence[Mapping[str, str]], groups: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Return the share of images on which two readers agree, and the agreement on each finding that both know."""
    pairs = [[*said.values()][:2] for said in named]
    alike = sum(agreed(pair, names) is not None for pair in pairs)
    told = [{who: known_findings(label) for who, label in said.items()} for said in named]
    found: dict[str, Any] = {"images": len(pairs), "agree": alike / len(pairs), "of": {}}
    for name in names:
        both = [{who: str(one[name]) for who, one in said.items() if name in one} for said in told]
        rows = [row for row, said in enumerate(both) if len(said) > 1]
        if rows:
            found["of"][name] = agreement([both[row] for row in rows], [groups[row] for row in rows])
    return found
