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

"""Present a session's images and labels to MONAI Label as a datastore."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from monai_weckd.annotation import AnnotationSession, class_of
from monai_weckd.annotation.label_sum import OWN_KEYS
from monai_weckd.annotation.store import check_info
from monai_weckd.apps.label.guard import person
from monai_weckd.utils.files import write_atomically

__all__ = ["FolderDatastore", "is_tag"]

_LONGEST_TAG = 64
_MOST_LABEL = 2**16
_LONGEST_NAME = 240  # of the 255 bytes that a file system gives a name, without suffixes
_BY_HAND = "images: expected to be added and removed by hand, in the folder, got a request. Copy or delete the file."


class FolderDatastore(Datastore):
    """Present the images and labels of a session as a MONAI Label datastore.

    An image's id is its path within the folder. An item of several images is presented as its first one, under the id
    of the item. A label with the tag "final" is a class in a JSON file, ``{"label": name}`` or ``{"idx": number}``; the
    session's store keeps it. Labels with other tags, such as the predictions of a batch, are files in the session's
    output folder.

    Args:
        session: images and labels.

    """

    def __init__(self, session: AnnotationSession) -> None:
        self.session = session
        self.files = session.chain.output_dir / "labels"
        self._infos: dict[str, dict[str, Any]] = {}

    def name(self) -> str:
        """Return the folder's name."""
        return self.session.studies.name

    def set_name(self, name: str) -> None:
        """Refuse a new name: the datastore is named after the folder."""
        raise ValueError(f"name: expected {self.name()!r}, the folder's, got {name!r}. Rename the folder.")

    def description(self) -> str:
        """Return the description."""
        return "images in a folder, with a class or findings each"

    def set_description(self, description: str) -> None:
        """Refuse a new description: it is fixed."""
        raise ValueError(f"description: expected {self.description()!r}, got {description!r}. Leave it.")

    def datalist(self) -> list[dict[str, Any]]:
        """Return the labeled images, with the indices of their classes, or a value for each finding: -1 is unknown."""
        items, words = self.session.items, self.session.store.words
        labels = self.session.labels.items()
        return [{**items[key], "image": self.get_image_uri(key), "label": words.plain(label)} for key, label in labels]

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Return the label id of an image for each of its tags."""
        self.session.item(image_id)
        tags = [folder.name for folder in self._folders() if (folder / _file_name(image_id)).is_file()]
        return dict.fromkeys([*(["final"] if image_id in self.session.labels else []), *tags], image_id)

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """Return the label id of an image for a tag, empty without a label."""
        return self.get_labels_by_image_id(image_id).get(tag, "")

    def get_image(self, image_id: str, params: Any = None) -> Any:
        """Return the bytes of an image, or of the first file of a series."""
        path = Path(self.get_image_uri(image_id))
        return (
            next(file for file in sorted(path.iterdir()) if file.is_file()).read_bytes()
            if path.is_dir()
            else path.read_bytes()
        )

    def get_image_uri(self, image_id: str) -> str:
        """Return the path of an image; of an item of several, that of the first one."""
        return self.session.images(image_id)[0]

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> Any:
        """Return the bytes of a label's JSON."""
        return Path(self.get_label_uri(label_id, label_tag)).read_bytes()

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Return the path of a label's JSON, empty without a label."""
        info = self.session.store.info(label_id) if label_id in self.session.labels else {}
        if label_tag == DefaultLabelTag.FINAL and info:
            path = self._file(label_id, "final")
            path.parent.mkdir(parents=True, exist_ok=True)
            name = "findings" if self.session.kind.findings else "idx"
            write_atomically(path, json.dumps({**info, name: self.session.store.words.plain(info["label"])}))
            return str(path)
        path = self._file(label_id, label_tag)
        return str(path) if label_tag != DefaultLabelTag.FINAL and path.is_file() else ""

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Return the path, the group and any added information of an image."""
        item = self.session.item(image_id)
        # a copy: MONAI Label changes what it gets, and what is kept must have been checked
        return {**deepcopy(self._infos.get(image_id, {})), "path": self.get_image_uri(image_id), "group": item["group"]}

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Return the class, the person, the time and any added information of a label."""
        self.session.item(label_id)
        return self.session.store.info(label_id) if label_tag == DefaultLabelTag.FINAL else {}

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the ids of the labeled images."""
        return list(self.session.labels)

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the ids of the unlabeled images."""
        given = self.session.given
        return [key for key in self.session.items if key not in given]

    def list_images(self) -> list[str]:
        """Return the ids of all images."""
        return list(self.session.items)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Return the path of a ZIP archive with the labeled images and a manifest."""
        if self.session.level != "image":
            raise ValueError(
                f"datastore: expected single images for an archive, got all images of each {self.session.level}. Write "
                "their manifest with `manifest --labels`."
            )
        path = self.session.chain.output_dir / "dataset.zip"
        rows = self.datalist()[: limit_cases or None]
        given = self.session.labels
        labels = {row["id"]: given[row["id"]] for row in rows if row["id"] in given}
        self.session.store.note("export", who=person().name, to=path.name, labels=len(labels))
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}")  # two requests at once write two archives
        try:
            # ZIP stores no time before 1980: older files get the earliest one
            with zipfile.ZipFile(part, "w", strict_timestamps=False) as archive:
                for row in rows:
                    source = Path(row["image"])
                    for file in sorted(source.iterdir()) if source.is_dir() else [source]:
                        archive.write(file, f"{row['id']}/{file.name}" if source.is_dir() else row["id"])
                archive.writestr("labels.json", json.dumps(labels))
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return str(path)

    def refresh(self) -> None:
        """List the images of the folder again."""
        self.session.refresh()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refuse an image: a server that runs unattended must not write into the folder of the images."""
        raise ValueError(_BY_HAND)

    def remove_image(self, image_id: str) -> None:
        """Refuse to remove an image, for the same reason."""
        raise ValueError(_BY_HAND)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save the label in a JSON file, and return its id, which equals the image's id."""
        self.session.item(image_id)
        if (length := os.stat(label_filename).st_size) > _MOST_LABEL:
            raise ValueError(f"label: expected at most {_MOST_LABEL:,} bytes of JSON, got {length:,}. Pass a class.")
        content = Path(label_filename).read_bytes()
        label = class_of(content, self.session.classes)
        if label_tag == DefaultLabelTag.FINAL:
            self.session.put_label(image_id, label, who=person().name, info=label_info)
        else:
            path = self._file(image_id, label_tag)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Withdraw a label."""
        if label_tag == DefaultLabelTag.FINAL:
            self.session.remove_label(label_id, who=person().name)
        else:
            self.session.item(label_id)
            self._file(label_id, label_tag).unlink(missing_ok=True)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add information about an image; it is kept until the server ends."""
        self.session.item(image_id)
        info = {**self._infos.get(image_id, {}), **info}
        check_info(info, where="info")
        if not isinstance(info.get("strategy", {}), dict):
            raise ValueError(f"info: expected an object as strategy, got {str(info['strategy'])[:80]!r}. Leave it out.")
        self._infos[image_id] = info

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add information to a label."""
        known = self.get_label_info(label_id, label_tag)
        if not known:
            raise ValueError(
                f"label: expected one of the tag {label_tag!r} for {label_id!r}, got none. Label it first."
            )
        info = {key: value for key, value in {**known, **info}.items() if key not in OWN_KEYS}
        self.session.put_label(label_id, known["label"], who=person().name, info=info)

    def status(self) -> dict[str, Any]:
        """Return the number of images and of labeled images."""
        total, completed = len(self.session.items), len(self.session.labels)
        return {"total": total, "completed": completed, "label_tags": {"final": completed}, "train": self.datalist()}

    def json(self) -> dict[str, Any]:
        """Return all images and their labels."""
        labels = self.session.labels
        return {
            "name": self.name(),
            "objects": {
                key: {
                    "image": {"info": self.get_image_info(key)},
                    "labels": {"final": {"info": self.session.store.info(key)}} if key in labels else {},
                }
                for key in self.session.items
            },
        }

    def _folders(self) -> list[Path]:
        return [path for path in self.files.glob("*") if path.is_dir() and path.name != "final"]

    def _file(self, image_id: str, tag: str) -> Path:
        self.session.item(image_id)  # raises for any id that is not an image, such as a path outside the folder
        if not is_tag(tag):
            raise ValueError(f"tag: expected a word such as 'original', got {str(tag)[:80]!r}. Pass another.")
        return self.files / tag / _file_name(image_id)


def _file_name(image_id: str) -> str:
    """Return the name of an image's file for labels; a long name is replaced by its digest, to fit."""
    folder, _, name = image_id.rpartition("/")
    if len(name.encode()) > _LONGEST_NAME:
        name = hashlib.sha256(name.encode()).hexdigest()
    return f"{folder}/{name}.json" if folder else f"{name}.json"


def is_tag(tag: Any) -> bool:
    """Return whether a label's tag is a word, which can name a folder.

    Args:
        tag: the tag of a request.

    Example::

        >>> is_tag("original"), is_tag(".."), is_tag(5)
        (True, False, False)

    """
    return isinstance(tag, str) and tag.isidentifier() and len(tag.encode()) <= _LONGEST_TAG
