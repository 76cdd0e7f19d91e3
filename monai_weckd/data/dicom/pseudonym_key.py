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

"""Keep the secret key by which patients get their pseudonyms."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from functools import lru_cache
from pathlib import Path

from monai_weckd.utils.messages import printable

__all__ = ["VARIABLE", "pseudonym_key"]

logger = logging.getLogger(__name__)

VARIABLE = "MONAI_WECKD_PSEUDONYM_KEY"
_LEAST = 32  # characters


def pseudonym_key() -> bytes:
    """Return the key of the user, from the file that the environment variable ``MONAI_WECKD_PSEUDONYM_KEY`` names.

    Without the variable, the file is ``monai_weckd/pseudonym.key`` in the user's folder of configurations
    (``XDG_CONFIG_HOME``, else ``~/.config``). Where there is no file, one is made that only the user can read.

    Raises:
        ValueError: When there is no file and none can be made, or it has too short a key.

    """
    named = os.environ.get(VARIABLE)
    if named:
        return _key_in(Path(named))
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return _key_in(Path(home, "monai_weckd", "pseudonym.key"))


@lru_cache
def _key_in(path: Path) -> bytes:
    try:
        if not path.exists():
            _make(path)
            logger.warning("%s: made the key of patients' pseudonyms. Keep it with your data.", printable(str(path)))
        key = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(
            f"{VARIABLE}: expected a file with a key, or a place for one, got {error.strerror} at {path}. "
            "Name a file that you can read or make."
        ) from error
    if len(key) < _LEAST:
        raise ValueError(
            f"{VARIABLE}: expected a key of at least {_LEAST} characters, got {len(key)} in {path}. "
            "Restore the file from a copy, or remove it to begin with new pseudonyms."
        )
    return key


def _make(path: Path) -> None:
    """Make a file with a new key, unless another process is faster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, part = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # for this user only
    try:
        with os.fdopen(number, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
        os.link(part, path)
    except FileExistsError:
        logger.debug("%s: another process made the key", path)
    finally:
        os.unlink(part)
