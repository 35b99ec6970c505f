"""Training through emorec's own path against the shortest loop in plain PyTorch."""

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from emorec.config.composition import Composed, composer, parse
from emorec.config.schema import TrainConfig
from emorec.datamodules.preparer import DataPreparer
from emorec.dropout import Dropout
from emorec.metrics.classification import confusion_matrix, summary_scores
from emorec.models.lightning_overhead import FastModule
from emorec.training.lifecycle import train
from emorec.training.trainer import make_trainer
from tests.benchmarks.figure import Figure, emorec, interleaved, rounds_of, seconds

CONF = Path(__file__).parent / "conf"
HEAD = ["encoder/audio=none", "encoder/video=none", "encoder/text=random", "dataset=synthetic", "batch_size=64"]
HEAD += ["model.normalisation=none", "trainer.patience=null", "progress=false"]
FLAGS = ["--config-dir", str(CONF)]
HIDDEN, CLASSES, DROPOUT = 128, 7, 0.3
STEPS = 157  # of an epoch
Split = tuple[Tensor, Tensor]


def raw_network(dim: int) -> nn.Sequential:
    """The layers that emorec's projection, concat fusion and head have for one modality."""
    return nn.Sequential(
        *(nn.Dropout(DROPOUT), nn.Linear(dim, HIDDEN), nn.GELU()),
        *(nn.Dropout(DROPOUT), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT)),
        *(nn.Dropout(DROPOUT), nn.Linear(HIDDEN, CLASSES)),
    )


def raw_epoch(network: nn.Module, optimizer: torch.optim.Optimizer, train_split: Split, val_split: Split) -> float:
    """One epoch of training with clipping, and validation with the same metrics; returns seconds."""
    started = time.perf_counter()
    criterion = nn.CrossEntropyLoss()
    network.train()
    for rows in torch.randperm(len(train_split[0])).split(64):
        loss = criterion(network(train_split[0][rows]), train_split[1][rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        logits = torch.cat([network(batch) for batch in val_split[0].split(64)])
        criterion(logits, val_split[1])
        summary_scores(confusion_matrix(val_split[1], logits.argmax(1), CLASSES))
    return time.perf_counter() - started


def composed(overrides: list[str]) -> Composed[TrainConfig]:
    line = parse("train", [*overrides, *FLAGS])
    with composer(line, TrainConfig) as open_composer:
        return open_composer.compose(line.overrides)


def splits(preparer: DataPreparer, overrides: list[str]) -> tuple[Split, Split]:
    """Training and validation as tensors in memory."""
    config = composed(overrides).config
    module = preparer.prepare(config, *preparer.components(config)).module(config)
    tensors = []
    for name in ("train", "val"):
        table = module.tables[name]
        batch = table.batch(torch.arange(len(table)))
        tensors.append((batch.features["text"][:, 0].clone(), batch.targets["emotion"]))
    return tensors[0], tensors[1]


def _one_thread(work: Callable[[], float]) -> float:
    """What a call returns with one thread, as emorec trains a small head."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work()
    finally:
        torch.set_num_threads(threads)


def cached_epoch(root: Path, *, rounds: int, epochs: int) -> Figure:
    """Epochs 2 to n on 9989 × 768 cached features, batch 64, against a loop with the same optimizer and one thread."""
    preparer = DataPreparer(root / "cache")
    train_split, val_split = splits(preparer, HEAD)
    number = iter(range(1_000_000))

    def ours() -> float:
        words = [*HEAD, f"seed={next(number)}", f"trainer.max_epochs={epochs}", "test=false"]
        return median_epoch(train(composed(words), preparer).folder)

    def raw(*, fused: bool) -> float:
        network = raw_network(768)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=fused)
        return statistics.median([raw_epoch(network, optimizer, train_split, val_split) for _ in range(epochs)][1:])

    peers = [lambda: raw(fused=True), lambda: raw(fused=False), lambda: _empty_epoch(epochs)]
    measured = rounds_of(ours, *[partial(_one_thread, peer) for peer in peers], rounds=rounds)
    ratio, unfused = (statistics.median(times[0] / times[side] for times in measured) for side in (1, 2))
    empty = statistics.median(times[3] / times[1] for times in measured)
    own, peer = (statistics.median(times[side] for times in measured) for side in (0, 1))
    note = f"{own / STEPS * 1e3:.2f} ms a step against {peer / STEPS * 1e3:.2f}; {unfused:.3f} of a loop that is not "
    note += f"fused; Lightning with a module that does nothing is {empty:.3f}"
    return Figure("cached_epoch_vs_raw_loop", ratio, "ratio", "<= 1.10", note)


class _EmptyModule(FastModule):
    """One parameter, and steps that do nothing with the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.ends: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def on_train_epoch_end(self) -> None:
        self.ends.append(time.perf_counter())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3, fused=True)


def _empty_epoch(epochs: int) -> float:
    """Median seconds of an epoch in which Lightning does all that it does, and the module nothing."""
    module = _EmptyModule()
    with tempfile.TemporaryDirectory() as folder:
        settings = composed([*HEAD, f"trainer.max_epochs={epochs}"]).config.trainer
        trainer = make_trainer(settings, [], Path(folder))
        trainer.fit(module, *(DataLoader(torch.zeros(steps, 1)) for steps in (STEPS, 18)))  # type: ignore[arg-type]
    return statistics.median(after - before for before, after in pairwise(module.ends))


def dropout(*, rounds: int = 9) -> Figure:
    """emorec's dropout on the features of a batch, forward and backward, against torch's."""
    features = torch.randn(64, 768, requires_grad=True)

    def apply(module: nn.Module) -> float:
        return seconds(lambda: [module(features).sum().backward() for _ in range(300)])

    sides = [partial(_one_thread, partial(apply, kind(DROPOUT))) for kind in (Dropout, nn.Dropout)]
    own, peer = interleaved(*sides, rounds=rounds)
    note = f"{own / 300 * 1e6:.0f} us against {peer / 300 * 1e6:.0f}"
    return Figure("dropout_vs_torch", own / peer, "ratio", "<= 0.5", note)


def busy_neighbour(root: Path, *, rounds: int = 3) -> Figure:
    """An epoch beside a process that keeps one core busy, against an epoch alone."""
    number = iter(range(2000, 3000))
    environment = {**os.environ, "EMOREC_ROOT": str(root)}
    words = [*HEAD, "trainer.max_epochs=6", "test=false"]

    def alone() -> float:
        done = emorec("train", *words, f"seed={next(number)}", *FLAGS, env=environment)
        return median_epoch(Path(done.stdout.split()[-1]))

    def beside() -> float:
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
            try:
                return alone()
            finally:
                neighbour.kill()

    measured = rounds_of(beside, alone, rounds=rounds)
    ratio = statistics.median(busy / quiet for busy, quiet in measured)
    note = ", ".join(f"{busy:.2f} s against {quiet:.2f}" for busy, quiet in measured)
    return Figure("busy_neighbour", ratio, "ratio", "<= 1.3", note)


def median_epoch(folder: Path) -> float:
    """Median seconds of a run's epochs, without the first."""
    rows = list(csv.DictReader((folder / "history.csv").open()))
    return statistics.median(float(row["seconds"]) for row in rows[1:])


def _raw_loops(count: int, train_split: Split, val_split: Split) -> float:
    """Seconds that so many loops of ten epochs take, with the fused AdamW and one thread."""

    def loops() -> float:
        started = time.perf_counter()
        for number in range(count):
            torch.manual_seed(number)
            network = raw_network(768)
            optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
            for _ in range(10):
                raw_epoch(network, optimizer, train_split, val_split)
        return time.perf_counter() - started

    return _one_thread(loops)


def _multirun(root: Path, launcher: str, seeds: range) -> tuple[float, list[float]]:
    """Seconds of a multirun of four rates × these seeds, 10 epochs each, and of its jobs' ways to their first step."""
    words = [*HEAD, "trainer.max_epochs=10", "test=false", *launcher.split()]
    rates = "optimizer.lr=0.0001,0.0003,0.001,0.003"
    sweep = [rates, f"seed={','.join(str(number) for number in seeds)}"]
    before = set((root / "checkpoints").glob("*/run.json"))
    started = time.perf_counter()
    emorec("train", "-m", *words, *sweep, *FLAGS, env={**os.environ, "EMOREC_ROOT": str(root)})
    elapsed = time.perf_counter() - started
    paths = set((root / "checkpoints").glob("*/run.json")) - before
    records = [json.loads(path.read_text()) for path in paths]
    finished = [record for record in records if record["status"] == "finished"]
    assert len(finished) == 4 * len(seeds), f"{len(finished)} of {4 * len(seeds)} runs finished"
    return elapsed, [record["timings"]["process_to_first_step"] for record in finished]


def sweeps(root: Path) -> list[Figure]:
    """Multiruns of 32 runs of 10 epochs, with two jobs at a time and with one, against raw loops of the same steps."""
    train_split, val_split = splits(DataPreparer(root / "cache"), HEAD)
    before = _raw_loops(16, train_split, val_split)
    basic, _ = _multirun(root, "launcher=basic", range(300, 308))
    local, starts = _multirun(root, "launcher=local launcher.slots=2", range(100, 108))
    peer = before + _raw_loops(16, train_split, val_split)  # in two halves, for the machine's speed drifts
    return [
        Figure("local_sweep_vs_basic", local / basic, "ratio", "<= 0.65", f"{local:.0f} s against {basic:.0f} s"),
        Figure("sweep32_vs_raw", local / peer, "ratio", "<= 0.75", f"{local:.0f} s against {peer:.0f} s"),
        Figure("job_start", statistics.median(starts), "s", "<= 1.0", f"at most {max(starts):.2f} s"),
    ]
