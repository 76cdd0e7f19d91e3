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

"""``python -m monai_weckd tune``: search for a bundle's hyperparameters with Optuna."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_weckd.cli.options import add_changes, parse_changes
from monai_weckd.tune.space import DEFAULTS, SPACE, parse_parameters

if TYPE_CHECKING:
    import optuna

    from monai_weckd.tune.training import TunedBundle

__all__ = ["add_tune"]


def add_tune(commands: Any) -> None:
    """Add the command ``tune``.

    Args:
        commands: the subparsers of ``python -m monai_weckd``.

    """
    parser = commands.add_parser(
        "tune", help="search for a bundle's learning rate, distillation weight and temperature", allow_abbrev=False
    )
    parser.set_defaults(run=_tune)
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="the bundle's folder")
    add("--dataset_dir", required=True, help="folder with manifest.csv, or with one folder for each class")
    add("--output_dir", type=Path, required=True, help="folder for tuned.json, trials.csv and the study")
    add_changes(parser)
    add("--trials", type=int, default=20, help="trials of the study, by all workers (default: %(default)s)")
    add("--timeout", type=float, metavar="SECONDS", help="start no trial after this many seconds")
    add("--parameters", default=",".join(DEFAULTS), help=f"some of {', '.join(SPACE)} (default: %(default)s)")
    add("--storage", metavar="URL", help="database of the study (default: a file in output_dir)")
    add("--study", default="tune", metavar="NAME", help="name of the study (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the search (default: %(default)s)")


def _tune(args: argparse.Namespace) -> None:
    _check(args)
    parameters = parse_parameters(args.parameters)
    changes = parse_changes(args.set)
    from monai_weckd.tune.backend import optuna

    # the command prints one line for each trial, and reports errors itself
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    from monai_weckd.tune.objective import ChainObjective
    from monai_weckd.tune.study import open_study
    from monai_weckd.tune.training import TunedBundle
    from monai_weckd.tune.trials import run_trials

    # otherwise MONAI warns in every trial that no logging file is set
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    bundle = TunedBundle(
        args.bundle,
        args.dataset_dir,
        cache_dir=args.output_dir / "cache",
        parameters=parameters,
        overlays=args.config_file,
        changes=changes,
        seed=args.seed,
    )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    storage = args.storage or f"sqlite:///{args.output_dir.resolve() / 'study.db'}"
    study = open_study(
        storage,
        args.study,
        lower_is_better=bundle.lower_is_better,
        parameters=parameters,
        settings=bundle.settings,
        own_values=bundle.own_values if bundle.knows_own_values else None,
        warmup_epochs=bundle.warmup_epochs,
        seed=args.seed,
    )
    if bundle.replaced_selection:
        print(
            f"selection: trials train on random shards in place of {bundle.replaced_selection!r}, with which each "
            "trial would request other labels; --set plan#shards=path/to/plan.json takes the shards of a run"
        )
    for line in _labels(bundle):
        print(line)
    try:
        run_trials(study, ChainObjective(bundle), trials=args.trials, timeout=args.timeout, tell=_say)
    except KeyboardInterrupt:
        # Optuna has closed the trial, and the finished trials are a valid result
        _say("stopped; run the same command again to continue")
    for line in _finish(args, changes, bundle, study):
        print(line)


def _say(line: str) -> None:
    print(line, flush=True)


def _check(args: argparse.Namespace) -> None:
    if args.trials < 1:
        raise ValueError(f"trials: expected a number of at least 1, got {args.trials}. Raise it.")
    if args.timeout is not None and not args.timeout > 0:
        raise ValueError(f"timeout: expected seconds above 0, got {args.timeout}. Leave it out for no limit.")
    if args.seed < 0:
        raise ValueError(f"seed: expected a number from 0 up, got {args.seed}. Pass another one.")


def _labels(bundle: TunedBundle) -> Iterator[str]:
    budget, val = bundle.plan.label_budget, len(bundle.whole_plan.val)
    yield f"label budget: {budget['train']} for training + {budget['val']} for validation; no test label is read"
    if budget["val"] < val:
        yield (
            f"validation: {budget['val']} of {val} labels, as many as a shard has, drawn class by class by a hash; "
            f"training with the result uses all {val}"
        )
    if not bundle.knows_own_values:
        yield "note: some of the configuration's own values are outside the ranges, and are not tried for comparison"


def _finish(
    args: argparse.Namespace, changes: dict[str, Any], bundle: TunedBundle, study: optuna.Study
) -> Iterator[str]:
    """Write the files and yield the summary."""
    from monai_weckd.tune.result import best_trial, run_command, write_overlay, write_trials

    trials, names = study.get_trials(deepcopy=False), [item.name for item in bundle.parameters]
    table, tuned = args.output_dir / "trials.csv", args.output_dir / "tuned.json"
    write_trials(table, trials, names=names)
    best = best_trial(trials, lower_is_better=bundle.lower_is_better)
    values = bundle.overlay(best.params)
    write_overlay(tuned, values)
    yield ""
    yield from _outcome(args.trials, trials, best)
    yield f"        {', '.join(f'{key} {value:.4g}' for key, value in values.items())}"
    yield f"note:   the best of many trials on {len(bundle.plan.val)} labels is too good by chance;"
    yield "        judge it on test groups"
    yield f"files:  {tuned}, {table}"
    yield "train with it:"
    places = {"bundle_root": args.bundle, "dataset_dir": args.dataset_dir, "output_dir": args.output_dir / "run"}
    yield run_command([*bundle.files, tuned], {**places, **changes})


def _outcome(wanted: int, trials: Sequence[optuna.trial.FrozenTrial], best: optuna.trial.FrozenTrial) -> Iterator[str]:
    """Yield the outcomes of the trials, and a comparison of the best one with the configuration's own values."""
    from monai_weckd.tune.counts import count_trials
    from monai_weckd.tune.objective import METRIC
    from monai_weckd.tune.result import own_trial

    counts, own = count_trials(trials), own_trial(trials)
    line = f"trials: {counts.finished} of {wanted}: {counts.completed} completed, {counts.pruned} pruned"
    line += f", {counts.failed} failed"
    if counts.abandoned:
        line += f"; {counts.abandoned} abandoned, not counted"
    yield line
    line = f"best:   {best.user_attrs[METRIC]} {best.value:.4f} in trial {best.number}"
    if own is best:
        line += ", the configuration's own values: no trial was better"
    elif own is not None:
        line += f"; the configuration's own values: {own.value:.4f}"
    yield line
