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

"""Bundles: read their configuration, check a run before it starts, and manage its output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_weckd.utils.lazy import lazy_names

from .shipped import bundle_names, copy_bundle

if TYPE_CHECKING:
    from .checks import check_run, check_types, refuse_unused_keys, show_cause_last, unused_keys
    from .config import BundleConfig
    from .identity import PLACES, describe_transforms, recorded_settings, run_settings
    from .output import is_complete, prepare_output_dir
    from .teacher import stored_logits, trained_network

__all__ = [
    "PLACES",
    "BundleConfig",
    "bundle_names",
    "check_run",
    "check_types",
    "copy_bundle",
    "describe_transforms",
    "is_complete",
    "prepare_output_dir",
    "recorded_settings",
    "refuse_unused_keys",
    "run_settings",
    "show_cause_last",
    "stored_logits",
    "trained_network",
    "unused_keys",
]

_HOMES = {
    "PLACES": "identity",
    "BundleConfig": "config",
    "check_run": "checks",
    "check_types": "checks",
    "describe_transforms": "identity",
    "is_complete": "output",
    "prepare_output_dir": "output",
    "recorded_settings": "identity",
    "refuse_unused_keys": "checks",
    "run_settings": "identity",
    "show_cause_last": "checks",
    "stored_logits": "teacher",
    "trained_network": "teacher",
    "unused_keys": "checks",
}

# modules that need MONAI: the command line starts without it
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
