"""`emorec predict`: applies a finished run to files that have no labels."""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from emorec.config.composition import compose_once
from emorec.config.schema import PredictConfig
from emorec.imports import quick_imports
from emorec.runs.logs import start_logging

if TYPE_CHECKING:
    from emorec.inference.predictor import Prediction


def main(arguments: Sequence[str]) -> int:
    """Predicts, and writes a row for each clip."""
    composed = compose_once("predict", PredictConfig, list(arguments))
    if composed is None:
        return 0
    start_logging()
    with quick_imports():
        config = composed.config
        from emorec.inference.clips import read_clips
        from emorec.inference.loaded_run import load_run
        from emorec.inference.prediction_files import format_of, write_predictions
        from emorec.inference.predictor import Predictor
        from emorec.progress import Progress

    form = format_of(config.output, config.format)
    run = load_run(config.run, checkpoints=config.paths.checkpoints)
    predictor, clips = Predictor(run, config.extraction), read_clips(config.input)
    unusable = 0
    with Progress("predictions", len(clips), config.progress) as progress:

        def counted() -> "Iterator[Prediction]":
            nonlocal unusable
            for prediction in predictor.predict(clips):
                unusable += prediction.predicted is None
                progress.advance()
                yield prediction

        write_predictions(counted(), predictor.task, config.output, form)
    rest = f", {unusable} without usable media (see problems)" if unusable else ""
    print(f"run {run.record.run_id}: {len(clips)} clips{rest}  {config.output}", file=sys.stderr)
    return 0
