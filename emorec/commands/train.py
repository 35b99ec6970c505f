"""`emorec train`: one run, or with `-m` one for each combination of values."""

import os
from collections.abc import Sequence

from emorec.config.composition import CommandLine, composer, parse, print_with_hydra
from emorec.runs.logs import start_logging
from emorec.errors import UserError
from emorec.sweeps.expansion import ALL_FOLDS
from emorec.sweeps.report import JobReport, reporting


def main(words: Sequence[str]) -> int:
    """Trains; returns 0, or 1 where a job of a multirun failed."""
    line = parse("train", words)
    if line.prints_only:
        return print_with_hydra(line)
    if line.multirun and "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError("expected no -m under torchrun, which starts the ranks of one run; emorec train -m starts them")
    start_logging()
    if not line.multirun:
        with reporting() as report:
            return _run_once(line, report)
    with composer(line) as open_composer:
        from emorec.sweeps.multirun import run_all

        return run_all(open_composer)


def _run_once(line: CommandLine, report: JobReport) -> int:
    with composer(line) as open_composer:
        composed = open_composer.compose(line.overrides)
    if (composed.config.get("dataset") or {}).get("fold") == ALL_FOLDS:
        raise UserError("expected -m beside dataset.fold=all, which stands for one run for each fold")

    from emorec.training.distributed import leave, own_order
    from emorec.runs.results import line_metrics
    from emorec.training.lifecycle import train
    from emorec.datamodules.preparer import workbench_for

    outcome = train(composed, workbench_for(composed.config))
    if own_order() is not None:
        leave()
    report.succeed(run_id=outcome.run_id, status=outcome.status, metrics=line_metrics(outcome.folder))
    print(outcome.line)
    return 0
