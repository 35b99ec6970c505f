"""Reads the corpus of a run again and applies the model, for what a report shows of it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from emorec.config.schema import CommandConfig
from emorec.datasets.utterance import SPLITS
from emorec.errors import UserError, first_line
from emorec.inference.export.validation import prepared
from emorec.inference.loaded_run import LoadedRun
from emorec.reporting.aggregate import Run
from emorec.reporting.exploration import Exploration

log = logging.getLogger(__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """What is found in the cache is no news of a report."""
    reading = logging.getLogger("emorec.features.extraction")
    before = reading.level
    reading.setLevel(logging.WARNING)
    try:
        yield
    finally:
        reading.setLevel(before)


def explore(run: Run, command: CommandConfig) -> Exploration | None:
    """The utterances and fused vectors of a run; `None`, with a warning, where its corpus cannot be read.

    Args:
        run: a finished run that predicts something.
        command: where caches lie, and how media are read.
    """
    try:
        with _quiet():
            return _explored(LoadedRun(run.record, run.folder), command)
    except (UserError, OSError) as error:
        log.warning("run %s is shown without its utterances and vectors: %s", run.record.run_id, first_line(error))
        return None


def _explored(run: LoadedRun, command: CommandConfig) -> Exploration:
    data, config = prepared(run, command, computes=False)
    module = data.module(config)
    utterances = {item.id: item for item in data.manifest.utterances}
    vectors: list[torch.Tensor] = []
    columns: dict[str, list[str]] = {"class": [], "speaker": [], "split": []}
    for split in SPLITS:
        batches = list(module.loader(split))
        vectors.append(run.model.fused_vectors(batches))
        for name in (name for batch in batches for name in batch.id):
            target = utterances[name].targets.get(data.task.name)
            is_class = data.task.kind == "classification" and isinstance(target, int) and target >= 0
            columns["class"].append(data.task.labels[int(str(target))] if is_class else "unknown")
            columns["speaker"].append(utterances[name].speaker or "unknown")
            columns["split"].append(split)
    if data.task.kind != "classification":
        del columns["class"]
    return Exploration(utterances, torch.cat(vectors).numpy(), columns)
