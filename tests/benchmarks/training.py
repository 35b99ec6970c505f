"""Training through emorec's own path against the shortest loop in plain PyTorch."""

import csv
import json
import os
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from emorec.config.composition import composer, parse
from emorec.config.schema import TrainConfig
from emorec.datamodules.preparer import DataPreparer
from emorec.metrics.classification import confusion_matrix, summary_scores
from emorec.training.lifecycle import train
from tests.benchmarks.figure import Figure, emorec, rounds_of

CONF = Path(__file__).parent / "conf"
HEAD = ["encoder/audio=none", "encoder/video=none", "encoder/text=random", "dataset=synthetic", "batch_size=64"]
HEAD += ["model.normalisation=none", "trainer.patience=null", "progress=false"]
FLAGS = ["--config-dir", str(CONF)]
HIDDEN, CLASSES, DROPOUT = 128, 7, 0.3
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


def splits(preparer: DataPreparer, overrides: list[str]) -> tuple[Split, Split]:
    """Training and validation as tensors in memory."""
    line = parse("train", [*overrides, *FLAGS])
    with composer(line, TrainConfig) as open_composer:
        config = open_composer.compose(line.overrides).config
    module = preparer.prepare(config, *preparer.components(config)).module(config)
    tensors = []
    for name in ("train", "val"):
        table = module.tables[name]
        batch = table.batch(torch.arange(len(table)))
        tensors.append((batch.features["text"][:, 0].clone(), batch.targets["emotion"]))
    return tensors[0], tensors[1]


def cached_epoch(root: Path, *, rounds: int, epochs: int) -> Figure:
    """Epochs 2 to n on 9989 × 768 cached features, batch 64."""
    preparer = DataPreparer(root / "cache")
    train_split, val_split = splits(preparer, HEAD)
    number = iter(range(1_000_000))

    def ours() -> float:
        words = [*HEAD, f"seed={next(number)}", f"trainer.max_epochs={epochs}", "test=false", *FLAGS]
        line = parse("train", words)
        with composer(line, TrainConfig) as open_composer:
            folder = train(open_composer.compose(line.overrides), preparer).folder
        rows = list(csv.DictReader((folder / "history.csv").open()))
        return statistics.median(float(row["seconds"]) for row in rows[1:])

    def raw(*, fused: bool | None = None) -> float:
        network = raw_network(768)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=fused)
        return statistics.median([raw_epoch(network, optimizer, train_split, val_split) for _ in range(epochs)][1:])

    measured = rounds_of(ours, raw, lambda: raw(fused=True), rounds=rounds)
    ratio, fused_ratio = (statistics.median(own[0] / own[side] for own in measured) for side in (1, 2))
    own, peer = (statistics.median(times[side] for times in measured) for side in (0, 1))
    note = f"{own / 157 * 1e3:.2f} ms a step against {peer / 157 * 1e3:.2f}"
    note += f"; {fused_ratio:.3f} of a loop with the fused AdamW that emorec takes on a CPU"
    return Figure("cached_epoch_vs_raw_loop", ratio, "ratio", "<= 1.20", note)


def _raw_loops(count: int, train_split: Split, val_split: Split) -> float:
    """Seconds that so many loops of ten epochs take."""
    started = time.perf_counter()
    for number in range(count):
        torch.manual_seed(number)
        network = raw_network(768)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        for _ in range(10):
            raw_epoch(network, optimizer, train_split, val_split)
    return time.perf_counter() - started


def sweep32(root: Path) -> Figure:
    """A multirun of 32 runs of 10 epochs in a process of its own against 32 raw loops of the same steps."""
    train_split, val_split = splits(DataPreparer(root / "cache"), HEAD)
    words = [*HEAD, "trainer.max_epochs=10", "test=false"]
    environment = {**os.environ, "EMOREC_ROOT": str(root)}
    peer = _raw_loops(16, train_split, val_split)  # half before and half after, for the machine's speed drifts
    started = time.perf_counter()
    sweep = ["optimizer.lr=0.0001,0.0003,0.001,0.003", f"seed={','.join(str(number) for number in range(100, 108))}"]
    emorec("train", "-m", *words, *sweep, *FLAGS, env=environment)
    own = time.perf_counter() - started
    peer += _raw_loops(16, train_split, val_split)
    jobs = [json.loads(path.read_text())["jobs"] for path in (root / "checkpoints" / "sweeps").glob("*/sweep.json")][-1]
    assert all(job["status"] == "finished" for job in jobs)
    return Figure("sweep32_vs_raw", own / peer, "ratio", "<= 1.6", f"{own:.0f} s against {peer:.0f} s")
