"""`emorec train`: one run, or with `-m` one for each combination of values."""

from collections.abc import Sequence

from emorec.config.composition import Composer, composer, parse, print_with_hydra
from emorec.config.schema import TrainConfig
from emorec.errors import UserError
from emorec.imports import quick_imports
from emorec.runs.logs import start_logging
from emorec.sweeps.expansion import may_fork
from emorec.sweeps.report import JobReport, reporting
from emorec.training.processes import start_warm_parent


def main(arguments: Sequence[str]) -> int:
    """Trains; returns 0, or 1 where a job of a multirun failed."""
    line = parse("train", arguments)
    if line.prints_only:
        return print_with_hydra(line)
    start_logging()
    if not line.multirun:
        with reporting() as report, composer(line, TrainConfig) as open_composer:
            _run_once(open_composer, report)
        from emorec.training.distributed import exit_now, has_process_group

        if has_process_group():  # a rank that torchrun or srun has started
            exit_now()
        return 0
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


def _run_once(open_composer: Composer[TrainConfig], report: JobReport) -> None:
    with quick_imports():  # the config imports what its parts name
        composed = open_composer.compose(open_composer.line.overrides)
        if composed.wants_all_folds:
            raise UserError("expected -m with dataset.fold=all, which stands for one run for each fold")
        config = composed.config

        from emorec.datamodules.preparer import DataPreparer
        from emorec.runs.results import line_metrics
        from emorec.training.distributed import exit_now, own_assignment
        from emorec.training.lifecycle import train

    outcome = train(composed, DataPreparer.of(config))
    if own_assignment() is not None:
        exit_now()
    report.succeed(run_id=outcome.run_id, status=outcome.status, metrics=line_metrics(outcome.folder))
    print(outcome.line)
