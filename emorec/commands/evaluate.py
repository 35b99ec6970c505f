"""`emorec evaluate`: applies a finished run to a split of its corpus, or to another corpus."""

from collections.abc import Sequence

from emorec.config.composition import compose_once
from emorec.config.schema import EvaluateConfig
from emorec.imports import quick_imports
from emorec.runs.logs import start_logging


def main(arguments: Sequence[str]) -> int:
    """Evaluates, prints the metrics and keeps them under the run's `evaluations/`."""
    composed = compose_once("evaluate", EvaluateConfig, arguments)
    if composed is None:
        return 0
    start_logging()
    with quick_imports():
        _ = composed.config
        from emorec.training.evaluation import evaluate_run

    print(evaluate_run(composed))
    return 0
