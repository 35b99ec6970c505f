"""`emorec report gap`: what a model gains from speakers that are in train and test."""

from collections.abc import Sequence

from emorec.config.composition import compose_once
from emorec.config.schema import TrainConfig
from emorec.imports import quick_imports
from emorec.runs.logs import start_logging


def gap(arguments: Sequence[str]) -> int:
    """Prints what a config gains where speakers are in train and test; returns 0."""
    composed = compose_once("train", TrainConfig, arguments)
    if composed is None:
        return 0
    start_logging()
    with quick_imports():
        config = (composed.for_fold(0) if composed.wants_all_folds else composed).config
        from emorec.datamodules.preparer import DataPreparer
        from emorec.training.leakage_gap import leakage_gap

    print(leakage_gap(composed, DataPreparer.of(config)))
    return 0
