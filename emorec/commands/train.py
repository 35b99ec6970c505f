"""`emorec train`: one run, or with `-m` one for each combination of values."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from emorec.config.command_line import CommandLine, parse
from emorec.config.composition import Composed, composer, print_with_hydra
from emorec.config.schema import TrainConfig
from emorec.datasets.manifest import Manifest
from emorec.errors import UserError
from emorec.imports import quick_imports
from emorec.runs.logs import start_logging
from emorec.sweeps.expansion import may_fork
from emorec.sweeps.report import reporting
from emorec.training.processes import Handover, start_warm_parent


def main(arguments: Sequence[str]) -> int:
    """Trains; returns 0, or 1 where a job of a multirun failed."""
    line = parse("train", arguments)
    if line.prints_only:
        return print_with_hydra(line)
    start_logging()
    if not line.multirun:
        return _run_once(partial(_compose, line))
    with composer(line, TrainConfig) as open_composer:
        if may_fork(line.overrides):
            start_warm_parent()  # imports while this process does
        with quick_imports():
            from emorec.sweeps.multirun import run_all
            from emorec.training.distributed import under_torchrun

        if under_torchrun():
            raise UserError(
                "expected no -m under torchrun, which starts the ranks of one run; emorec train -m starts them"
            )
        return run_all(open_composer)


def train_handed_over(handover: Handover) -> int:
    """Trains one run that another process has prepared; returns 0."""
    start_logging()
    return _run_once(lambda: handover.composed, lambda: pickle.loads(handover.manifests))


def _compose(line: CommandLine) -> Composed[TrainConfig]:
    with composer(line, TrainConfig) as open_composer:
        composed = open_composer.compose(line.overrides)
    if composed.wants_all_folds:
        raise UserError("expected -m with dataset.fold=all, which stands for one run for each fold")
    return composed


def _run_once(compose: Callable[[], Composed[TrainConfig]], read: Callable[[], Mapping[str, Manifest]] = dict) -> int:
    with reporting() as report:
        with quick_imports():  # the config imports what its parts name
            composed, manifests = compose(), read()
            config = composed.config

            from emorec.datamodules.preparer import DataPreparer
            from emorec.runs.results import line_metrics
            from emorec.training.distributed import exit_now, has_process_group, own_assignment
            from emorec.training.lifecycle import train

        outcome = train(composed, DataPreparer.of(config, manifests))
        if own_assignment() is not None:
            exit_now()
        report.succeed(run_id=outcome.run_id, status=outcome.status, metrics=line_metrics(outcome.folder))
        print(outcome.line)
    if has_process_group():  # a rank that torchrun or srun has started
        exit_now()
    return 0
