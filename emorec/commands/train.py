"""`emorec train`: one run, or with `-m` one for each combination of values."""

from collections.abc import Sequence

from emorec.commands.composition import composer, parse, print_with_hydra
from emorec.commands.logs import start_logging


def main(words: Sequence[str]) -> int:
    """Trains; returns 0, or 1 where a job of a multirun failed."""
    line = parse("train", words)
    if line.prints_only:
        return print_with_hydra(line)
    start_logging()
    with composer(line) as open_composer:
        if line.multirun:
            from emorec.commands.multirun import run_all

            return run_all(open_composer)
        composed = open_composer.compose(line.overrides)

    from emorec.commands.training import train
    from emorec.commands.workbench import workbench_for

    print(train(composed, workbench_for(composed.config)).line)
    return 0
