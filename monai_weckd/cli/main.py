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

"""The command line: ``python -m monai_weckd COMMAND``."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence

from monai_weckd import __version__
from monai_weckd.cli.audit import add_audit
from monai_weckd.cli.bundle import add_bundle
from monai_weckd.cli.compare import add_compare
from monai_weckd.cli.export import add_export
from monai_weckd.cli.federate import add_federate
from monai_weckd.cli.label import add_label
from monai_weckd.cli.label_sr import add_label_sr
from monai_weckd.cli.pacs import add_pacs
from monai_weckd.cli.phantom import add_phantom
from monai_weckd.cli.plan import add_plan
from monai_weckd.cli.predict import add_predict
from monai_weckd.cli.report import add_report
from monai_weckd.cli.tune import add_tune
from monai_weckd.plan.checks import PlanError
from monai_weckd.utils.errors import is_refusal

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of ``python -m monai_weckd``.

    Args:
        argv: the arguments, default None: those of the process.

    Returns:
        The exit code: 0 on success, 1 after an error, printed to standard error in one line, 2 for wrong usage.

    """
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        args.run(args)
    except PlanError as error:
        sys.stderr.write("".join(f"error: {problem}\n" for problem in error.problems))
        return 1
    except (ValueError, TypeError, OSError, ImportError) as error:
        if isinstance(error, TypeError) and not is_refusal(error):
            raise
        sys.stderr.write(f"error: {_line(error)}\n")
        return 1
    return 0


def _line(error: Exception) -> str:
    """Return what an error says; one of the operating system says which path it is about, and what to do."""
    if not isinstance(error, OSError) or error.filename is None or error.strerror is None:
        return str(error)
    text = f"{error.filename}: expected a file or folder to use, got {error.strerror[:1].lower()}{error.strerror[1:]}."
    hints = {
        errno.EACCES: "Change its rights, or pass another.",
        errno.EROFS: "Pass another.",
        errno.ENOSPC: "Make room.",
    }
    return f"{text} {hints.get(error.errno or 0, 'Correct the path.')}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m monai_weckd",
        description="Chain distillation for medical image classification from few labels.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"monai_weckd {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    add_plan(commands)
    add_audit(commands)
    add_bundle(commands)
    add_phantom(commands)
    add_report(commands)
    add_tune(commands)
    add_compare(commands)
    add_predict(commands)
    add_export(commands)
    add_label(commands)
    add_label_sr(commands)
    add_federate(commands)
    add_pacs(commands)
    return parser
