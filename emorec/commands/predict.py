"""`emorec predict`: applies finished runs to files that have no labels."""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from emorec.config.composition import compose_once
from emorec.config.schema import PredictConfig
from emorec.imports import quick_imports
from emorec.progress import Progress
from emorec.runs.logs import start_logging

if TYPE_CHECKING:
    from emorec.datasets.utterance import Utterance
    from emorec.inference.prediction import Prediction
    from emorec.inference.predictor import Predictor


def main(arguments: Sequence[str]) -> int:
    """Predicts, and writes a row for each clip, or for each segment of a recording."""
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
        from emorec.inference.transcription import Transcriber

    form = format_of(config.output, config.format)
    chosen = [config.run] if isinstance(config.run, str) else config.run
    runs = [load_run(run, checkpoints=config.paths.checkpoints) for run in chosen]
    transcriber = Transcriber(config.whisper) if config.text == "whisper" else None
    predictor, clips = Predictor(runs, config.extraction, transcriber), read_clips(config.input)
    counts = _Counts()
    with Progress("predictions", len(clips), config.progress) as progress:
        predicted = _whole(predictor, clips) if config.window is None else _segments(predictor, clips, config)
        write_predictions(counts.of(predicted, progress), predictor.task, config.output, form)
    names = " + ".join(run.record.run_id for run in runs)
    print(f"run {names}: {counts.text(config)}  {config.output}", file=sys.stderr)
    return 0


def _whole(predictor: "Predictor", clips: "list[Utterance]") -> "Iterator[list[Prediction]]":
    return ([prediction] for prediction in predictor.predict(clips))


def _segments(predictor: "Predictor", clips: "list[Utterance]", config: PredictConfig) -> "Iterator[list[Prediction]]":
    """The predictions of each recording, whose subtitles and picture are written on the way."""
    from emorec.inference.timeline_files import PICTURES, SUBTITLES, destination, write_plot, write_subtitles

    assert config.window is not None
    names = [clip.id for clip in clips]
    writers = [
        (write, destination(place, suffixes, names, key))
        for write, place, suffixes, key in (
            (write_subtitles, config.subtitles, SUBTITLES, "subtitles"),
            (write_plot, config.plot, PICTURES, "plot"),
        )
        if place is not None
    ]
    smoothing = config.smoothing
    for timeline in predictor.timelines(
        clips, window=config.window, hop=config.hop, smoother=smoothing.method, seconds=smoothing.seconds
    ):
        for write, target in writers:
            write(timeline, predictor.task, target.of(timeline.id))
        yield list(timeline.predictions)


class _Counts:
    """Of the recordings, of the rows, and of those without a prediction."""

    def __init__(self) -> None:
        self.recordings = self.rows = self.unusable = 0

    def of(self, groups: "Iterator[list[Prediction]]", progress: Progress) -> "Iterator[Prediction]":
        for group in groups:
            self.recordings += 1
            for prediction in group:
                self.rows += 1
                self.unusable += prediction.predicted is None
                yield prediction
            progress.advance()

    def text(self, config: PredictConfig) -> str:
        """What was counted, for a reader."""
        segments = "" if config.window is None else f", {self.rows} segments"
        rest = f", {self.unusable} without usable media (see problems)" if self.unusable else ""
        return f"{self.recordings} clips{segments}{rest}"
