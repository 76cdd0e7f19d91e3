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

"""``python -m monai_weckd label``: start the label server."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_weckd.cli.options import add_changes, parse_changes

if TYPE_CHECKING:
    from monai_weckd.annotation import AnnotatedChain, AnnotationSession
    from monai_weckd.apps.label.guard import Access

__all__ = ["add_label"]

_LOCAL = ("127.0.0.1", "localhost", "::1")


def add_label(commands: Any) -> None:
    """Add the command ``label``.

    Args:
        commands: the subparsers of ``python -m monai_weckd``.

    """
    parser = commands.add_parser(
        "label", help="label images while a chain learns from the labels (MONAI Label)", allow_abbrev=False
    )
    parser.set_defaults(run=_label)
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="the bundle's folder")
    add("--studies", required=True, help="folder of the images, or the address of a DICOMweb service")
    add("--filter", action="append", default=[], metavar="KEYWORD=VALUE", help="which series to fetch; repeatable")
    add("--output_dir", type=Path, help="folder for labels and chain (default: .weckd in the folder of the images)")
    add_changes(parser)
    add("--classes", nargs="+", metavar="NAME", help="class names (default: the bundle's); new ones last")
    add("--labels", type=Path, metavar="MANIFEST", help="CSV (file,label) whose labels count as given")
    add("--val_fraction", type=float, default=0.0, help="labeled groups for validation (default: none)")
    add("--ahead", type=int, default=24, help="images to choose at a time (default: %(default)s)")
    add("--worklist", type=Path, metavar="CSV", help="ask for images only of which `predict` left the answer open")
    add("--label_budget", type=int, help="how many labels you plan to give; the page says when you have given them")
    add("--read_twice", type=float, default=0.0, help="share of images that two people read, blind (default: none)")
    add("--disagreements", default="settle", help="of these: settle, majority of three, or soft (default: settle)")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    add("--password_file", type=Path, help="file with one password for all, or a line NAME:PASSWORD for each person")
    add("--user_header", metavar="NAME", help="header in which a proxy names the person, such as X-Remote-User")


def _label(args: argparse.Namespace) -> None:
    access = _access(args)
    _check_port(args.host, args.port)
    studies = _studies(args)
    changes = parse_changes(args.set)
    from monai_weckd.annotation import AnnotatedBundle, AnnotatedChain, take_labels
    from monai_weckd.annotation.worklist import read_worklist
    from monai_weckd.apps.label.server import serve
    from monai_weckd.data.item_level import PLURALS
    from monai_weckd.utils.system import limit_threads

    limit_threads()
    worklist = None if args.worklist is None else read_worklist(args.worklist)
    # one line for each stage, and no warning by MONAI's workflows that there is no logging file
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("monai_weckd.engines").setLevel(logging.INFO)
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    output_dir = args.output_dir or studies / ".weckd"
    bundle = AnnotatedBundle(
        args.bundle,
        studies,
        overlays=args.config_file,
        changes=changes,
        classes=args.classes,
        cache_dir=output_dir / "cache",
    )
    # one server at a time: a second one would overwrite labels, because each reads them once
    with _alone(output_dir):
        chain = AnnotatedChain(bundle, output_dir, val_fraction=args.val_fraction, ahead=args.ahead)
        session = _session(args, chain, studies, worklist)
        if args.labels is not None:
            taken, before = take_labels(session, args.labels)
            print(f"labels  {taken} taken from {args.labels}, {before} {PLURALS[session.level]} had one")
        print(f"{PLURALS[session.level]:7} {len(session.items)} in {studies}, {len(session.labels)} with a label")
        if text := session.passed_over.text():
            print(text)
        print(f"chain   {len(chain.stages)} stages in {output_dir}")
        print(f"open    http://{args.host}:{args.port}/", flush=True)
        # objects created so far live until the end, so garbage collection after each stage can skip them
        gc.freeze()
        serve(session, host=args.host, port=args.port, access=access)


def _check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be had, before the page of somebody else at its address is taken for this one."""
    if not 1 <= port <= 65535:
        raise ValueError(f"port: expected a number from 1 to 65535, got {port}. Pass e.g. 8000.")
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as free:
            if os.name == "posix":  # as the server does it: elsewhere this would take the port of another
                free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(address)
    except OSError as error:
        reason = f"({(error.strerror or str(error)).lower()})"
        raise ValueError(f"port: expected a free one of {host}, got {port} {reason}. Pass another.") from None


def _session(
    args: argparse.Namespace, chain: AnnotatedChain, studies: Path, worklist: list[str] | None
) -> AnnotationSession:
    from monai_weckd.annotation import AnnotationSession
    from monai_weckd.annotation.worklist import WorklistSession
    from monai_weckd.data.item_level import PLURALS

    options: Any = {name: getattr(args, name) for name in ("label_budget", "read_twice", "disagreements")}
    if worklist is None:
        return AnnotationSession(chain, studies, **options)
    session = WorklistSession(chain, studies, worklist, **options)
    missing = f", {session.missing} of which are not in {studies}" if session.missing else ""
    print(f"list    {len(worklist)} {PLURALS[session.level]} of {args.worklist}{missing}")
    return session


def _alone(output_dir: Path) -> Any:
    """Acquire the lock that allows only one server per folder."""
    from filelock import FileLock, Timeout

    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(output_dir / "server.lock").acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"output_dir: expected one server at a time on {output_dir}, got another. Stop it, or pass another folder."
        ) from None


def _studies(args: argparse.Namespace) -> Path:
    """Return the folder of the images; fetch them first if they are in a DICOMweb service."""
    if not args.studies.startswith(("http://", "https://")):
        if args.filter:
            raise ValueError(f"filter: expected none for a folder, got {args.filter}. It is for a DICOMweb service.")
        if not Path(args.studies).is_dir():
            raise ValueError(f"studies: expected a folder of images, got {args.studies!r}. Correct the path.")
        return Path(args.studies)
    from monai_weckd.cli.pacs import fetch_into, filter_of

    if args.output_dir is None:
        raise ValueError("output_dir: expected a folder for images from a DICOMweb service, got none. Pass one.")
    if not args.filter:
        raise ValueError("filter: expected at least one for a DICOMweb service, got none. Pass e.g. Modality=MR.")
    folder: Path = args.output_dir / "images"
    fetch_into(folder, args.studies, dict(map(filter_of, args.filter)))
    return folder


def _text(path: Path) -> str:
    """Return the text in a file that has a secret; print a note if others on this machine can read it."""
    mode = path.stat().st_mode & 0o777
    if os.name == "posix" and mode & 0o077:
        text = f"expected a file that only you can read, got mode {mode:04o}. Run chmod 600 {path}"
        print(f"note    password_file: {text}")
    try:
        # a byte order mark, as Windows writes it, would be part of the password
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = f"expected text in UTF-8, got other bytes in {path}. Save it as UTF-8."
        raise ValueError(f"password_file: {text}") from None


def _access(args: argparse.Namespace) -> Access:
    """Return who may use the server."""
    from monai_weckd.apps.label.guard import Access

    if args.password_file is not None:
        lines = [line.strip() for line in _text(args.password_file).splitlines() if line.strip()]
        if len(lines) < 2 and ":" not in "".join(lines):
            return Access(_checked_password("".join(lines)), user_header=args.user_header)
        return Access(people=_people(lines), user_header=args.user_header)
    if args.host not in _LOCAL:
        raise ValueError(
            f"host: expected 127.0.0.1 without a password, got {args.host!r}, which others can reach. "
            "Pass --password_file."
        )
    return Access(user_header=args.user_header)


def _people(lines: list[str]) -> dict[str, str]:
    """Return the password of each person."""
    from monai_weckd.apps.label.guard import checked_name

    people: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, colon, password = line.partition(":")
        if not colon:
            raise ValueError(f"password_file: expected NAME:PASSWORD in line {number}, got no colon. Add the name.")
        name = checked_name(name, where=f"password_file: line {number}")
        if name in people:
            raise ValueError(f"password_file: expected each name once, got {name!r} twice. Remove a line.")
        people[name] = _checked_password(password)
    return people


def _checked_password(password: str) -> str:
    if len(password) < 8:
        raise ValueError(f"password_file: expected 8 characters or more, got {len(password)}. Choose a longer one.")
    return password
