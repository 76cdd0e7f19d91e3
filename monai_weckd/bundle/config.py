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

"""Read bundles: merge their files, set keys, leave parts out, and evaluate values on demand."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

from monai.bundle import ComponentLocator, ConfigParser

from monai_weckd.bundle.checks import accepted_arguments, check_key, unused_keys
from monai_weckd.bundle.identity import without_places
from monai_weckd.utils.errors import raising_cause
from monai_weckd.utils.literals import literal
from monai_weckd.utils.messages import nearest

__all__ = ["BundleConfig"]


class BundleConfig:
    """The configuration of a bundle; it evaluates a value only when a program asks for it.

    The files are read once, so later edits have no effect. Keys follow ``monai.bundle``, such as ``seed`` or
    ``chain#tolerance``. An unknown key is an error, unless it is an argument that its component takes.

    Args:
        bundle: the bundle's folder.
        name: name of the first file in ``configs``, default "train".
        overlays: configuration files to merge into it, in order: paths, or names of files in ``configs``.
        changes: values to set, by key.

    Attributes:
        root: the bundle's folder.
        files: the configuration files.

    Raises:
        ValueError: When a file is missing, or a key is unknown.

    Example::

        >>> config = BundleConfig("bundles/otoscopy_chain_classification", changes={"chain#tolerance": 0.01})
        >>> config["num_stages"], config["chain"]["tolerance"]
        (3, 0.01)

    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        name: str = "train",
        *,
        overlays: Sequence[str | os.PathLike[str]] = (),
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        self.root = Path(bundle)
        main = self._file(f"{name}.json")
        self.files = [main, *(self._overlay(overlay) for overlay in overlays)]
        # created once: it scans the imported modules, and fails if another thread imports one meanwhile
        self._locator = ComponentLocator()
        self._locator.get_component_module_name("")
        parser = ConfigParser()
        parser.read_config([str(file) for file in self.files])
        if (self.root / "configs" / "metadata.json").is_file():
            parser["_meta_"] = self.metadata
        self.parser = self._parser_of(parser.get())
        for key, value in {**(changes or {}), "bundle_root": literal(str(self.root))}.items():
            self.set(key, value)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Content of ``configs/metadata.json``."""
        return ConfigParser.load_config_file(str(self._file("metadata.json")))

    @property
    def spatial_dims(self) -> int:
        """2 for pictures, 3 for volumes."""
        return len(self.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names from the metadata, in the order of their indices."""
        return tuple(map(str, self.metadata["network_data_format"]["outputs"]["pred"]["channel_def"].values()))

    @property
    def has_findings(self) -> bool:
        """Whether an image may show several findings, in place of one class."""
        return "datalist#findings" in self and bool(self.value("datalist#findings"))

    def refuse_findings(self, command: str) -> None:
        """Refuse a bundle of findings where a command is for one class an image.

        Args:
            command: name of the command.

        Raises:
            ValueError: When it is such a bundle.

        """
        if self.has_findings:
            raise ValueError(
                f"bundle: expected one class an image, got {self.root.name}, whose images may show several findings. "
                f"`{command}` does not offer several findings yet; the other commands do."
            )

    @property
    def item_level(self) -> str:
        """The level of what has a label, "image", "series", "study" or "patient"."""
        return str(self.value("datalist#item_level")) if "datalist#item_level" in self else "image"

    def refuse_several_images(self, command: str) -> None:
        """Refuse a configuration whose items have several images where a command is for single ones.

        Args:
            command: name of the command.

        Raises:
            ValueError: When it is such a configuration.

        """
        if self.item_level != "image":
            raise ValueError(
                f"item_level: expected 'image' for `{command}`, which takes single images, got {self.item_level!r}. "
                "Train, plan, label, compare, report and predict take others."
            )

    @property
    def solves_heads(self) -> bool:
        """Whether stages solve a head at once instead of training step by step."""
        key = "train#trainer#iteration_update"
        return key in self and self[key] is not None

    def __contains__(self, key: str) -> bool:
        return key in self.parser

    def __getitem__(self, key: str) -> Any:
        """Return a value as it is written; see :py:meth:`value` for the errors."""
        self._refuse_missing(key)
        return self.parser[key]

    def set(self, key: str, value: Any) -> None:
        """Set a value.

        Args:
            key: its key.
            value: the value, or a component or expression for it.

        Raises:
            ValueError: When the configuration has no such key, or its value has another type.

        """
        self._refuse_unknown(key)
        check_key(key, value)
        self.parser[key] = value

    def takes(self, key: str) -> bool:
        """Return whether a value can be set.

        Args:
            key: its key.

        """
        try:
            self._refuse_unknown(key)
        except ValueError:
            return False
        return True

    def leave_out(self, *keys: str) -> None:
        """Remove parts of the configuration, if present: the handlers of a list, a component, or a group.

        Args:
            keys: keys such as "train#monitors" (handlers that print) or "test".

        """
        for key in keys:
            part = self.parser[key] if key in self else None
            if part is None:
                continue
            if isinstance(part, list):
                self.parser[key] = []
            elif "_target_" in part:
                # a disabled component gives None as well, but it evaluates its references first
                self.parser[key] = None
            else:
                self.parser.get().pop(key)

    def value(self, key: str) -> Any:
        """Return the evaluated value of a key, the same object each time.

        Args:
            key: the key.

        Raises:
            ValueError: When the configuration does not have it.
            Exception: The error of the evaluation itself, without MONAI's errors around it.

        """
        self._refuse_missing(key)
        with raising_cause():
            return self.parser.get_parsed_content(key)

    def plain(self) -> dict[str, Any]:
        """Return a copy of the configuration as written, without keys that do not affect the trained weights."""
        return without_places(self.parser.get())

    def refuse_unused(self) -> None:
        """Refuse keys that nothing reads.

        Raises:
            ValueError: When there is such a key.

        """
        for key, hint in unused_keys(self.parser.get()).items():
            raise ValueError(f"{key}: expected a key that the configuration uses, got one that nothing reads. {hint}")

    def overlay(self, name: str | os.PathLike[str]) -> dict[str, Any]:
        """Return the content of an overlay, as it is written.

        Args:
            name: its path, or its name in the bundle's ``configs``.

        Raises:
            ValueError: When there is no such file.

        """
        content: dict[str, Any] = ConfigParser.load_config_file(str(self._overlay(name)))
        return content

    def copy(self, changes: Mapping[str, Any] | None = None, **objects: Any) -> BundleConfig:
        """Return a copy of this configuration in which nothing has been evaluated.

        Args:
            changes: values to set in it, by key.
            objects: objects that replace top-level parts, such as the data list.

        Raises:
            ValueError: When a key is unknown.

        """
        other = object.__new__(BundleConfig)
        other.root, other.files, other._locator = self.root, self.files, self._locator
        content = {key: value for key, value in self.parser.get().items() if key not in objects}
        other.parser = self._parser_of(deepcopy(content))
        for key, value in (changes or {}).items():
            other.set(key, value)
        other.parser.get().update(objects)
        return other

    def trainer(self) -> Any:
        """Return the trainer, ready to run: ``initialize`` has been evaluated, ``run`` has not."""
        if str(self.root) not in sys.path:  # as monai.bundle does, so that the bundle's scripts can be imported
            sys.path.insert(1, str(self.root))
        for key in ("imports", "initialize", "train#trainer"):
            trainer = self.value(key)
        return trainer

    def _parser_of(self, content: dict[str, Any]) -> ConfigParser:
        parser = ConfigParser(content)
        parser.locator = self._locator
        return parser

    def _refuse_missing(self, key: str) -> None:
        if key not in self:
            raise ValueError(f"bundle: expected the key {key!r} in its {self.files[0].name}, got none. Add it.")

    def _refuse_unknown(self, key: str) -> None:
        if key in self:
            return
        group, _, name = key.replace("::", "#").rpartition("#")
        component = self.parser[group] if group and group in self else None
        if isinstance(component, list):
            names = [str(number) for number in range(len(component))]
        elif isinstance(component, dict):
            names = list(component)
        else:  # no such group exists
            component, name, names = None, key.replace("::", "#").partition("#")[0], list(self.parser.get())
        if isinstance(component, dict) and "_target_" in component:
            taken = accepted_arguments(component["_target_"], self._locator)
            if taken is None or name in taken or name.startswith("_"):
                return
            names = list(taken)
        where = f"{group} of {self.files[0]}" if component is not None else str(self.files[0])
        names = [known for known in names if not known.startswith("_")]
        raise ValueError(f"set: expected a key of {where}, got {key!r}. {nearest(name, names)}")

    def _file(self, name: str) -> Path:
        path = self.root / "configs" / name
        if not path.is_file():
            raise ValueError(f"bundle: expected configs/{name} in {str(self.root)!r}, got none. Pass a bundle.")
        return path

    def _overlay(self, overlay: str | os.PathLike[str]) -> Path:
        for path in (Path(overlay), self.root / "configs" / overlay):
            if path.is_file():
                return path
        raise ValueError(
            f"config_file: expected a file, or the name of one in {self.root / 'configs'}, "
            f"got {os.fspath(overlay)!r}. Correct the path."
        )
