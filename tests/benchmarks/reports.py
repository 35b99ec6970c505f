"""How long a report of many runs takes, and how much memory."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from emorec.config.composition import compose_once
from emorec.config.schema import TrainConfig
from emorec.runs.checkpoint_store import CheckpointStore
from tests.benchmarks.figure import Figure
from tests.reporting.run_directories import Answers, publish

SEEDS, FOLDS, SPEAKERS, EACH = 2, 5, 24, 60  # of a group; the sizes are those of RAVDESS
LABELS = [f"class{number}" for number in range(8)]


def _answers(fold: int, generator: np.random.Generator) -> dict[str, Answers]:
    """Those of a fold: a fifth of the speakers in test, two in validation."""

    def of(speakers: list[int]) -> Answers:
        names = [(speaker, number) for speaker in speakers for number in range(EACH)]
        target = np.array([number % len(LABELS) for _, number in names])
        predicted = np.where(
            generator.random(len(names)) < 0.6, target, generator.integers(len(LABELS), size=len(names))
        )
        origins = {"speaker": [f"{speaker:02d}" for speaker, _ in names]}
        return Answers([f"{speaker:02d}-{number:03d}" for speaker, number in names], target, predicted, origins)

    test = [speaker for speaker in range(SPEAKERS) if speaker % FOLDS == fold]
    val = [speaker for speaker in range(SPEAKERS) if speaker % FOLDS == (fold + 1) % FOLDS][:2]
    return {"val": of(val), "test": of(test)}


def make_runs(root: Path, count: int) -> CheckpointStore:
    """Publishes so many runs, in groups of seeds and folds."""
    store, generator = CheckpointStore(root), np.random.default_rng(0)
    composed = compose_once("train", TrainConfig, ["dataset=ravdess", "encoder/audio=crnn", "encoder/text=none"])
    assert composed is not None
    epochs = "".join(f"{epoch},{epoch * 90},0.001,1.5,0.7,0.8,0.6,0.5,0.5\n" for epoch in range(30))
    for number in range(count):
        group, run = divmod(number, SEEDS * FOLDS)
        seed, fold = divmod(run, FOLDS)
        name = publish(
            store,
            {"optimizer.lr": 0.001 * (group + 1), "seed": seed, "dataset.fold": fold},
            predictions=_answers(fold, generator),
            task={"labels": LABELS},
            config=composed.values,
            started=f"2026-01-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}+0000",
        )
        header = "epoch,step,lr,seconds,train/loss,val/loss,val/uar,val/weighted_f1,val/accuracy\n"
        (store.folder(name) / "history.csv").write_text(header + epochs)
    return store


def report(root: Path, *, runs: int = 2000) -> list[Figure]:
    """`emorec report` of so many runs."""
    store = make_runs(root / "checkpoints", runs)
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-m", "emorec", "report", f"paths.checkpoints={store.root}"]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    took = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    note = f"{runs} runs in {runs // (SEEDS * FOLDS)} groups, {processor:.1f} s of processor time"
    return [
        Figure("report_seconds", took, "s", "<= 30", note),
        Figure("report_memory", after.ru_maxrss / 1e6, "GB", "<= 1", "the largest of all processes so far"),
    ]
