"""What joins modalities and turns: the steps of all fusions, and an epoch of a dialogue context."""

import statistics
from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from emorec.batch import MODALITIES
from emorec.config.instantiation import instantiate, locate
from emorec.datamodules.preparer import DataPreparer
from emorec.fusion.fusion import Fusion
from emorec.metrics.classification import confusion_matrix, summary_scores
from emorec.training.lifecycle import train
from tests.benchmarks.figure import Figure, rounds_of, seconds
from tests.benchmarks.synthetic import Synthetic
from tests.benchmarks.training import CLASSES, DROPOUT, HEAD, HIDDEN, composed, median_epoch
from tests.discovery import names, node

BATCH, FRAMES, STEPS = 32, 50, 10
LONGEST = 24  # turns of a dialogue, of which 1 to 24 are equally frequent
TURNS = 64  # of a batch, padding included
Dialogues = tuple[Tensor, Tensor, Tensor]  # vectors (N, D), targets (N,), and numbers of turns (dialogues,)


def fusions(*, rounds: int = 3) -> list[Figure]:
    """A training step of each fusion of three modalities of 50 frames, ÷ one of `concat`; and its parameters."""
    made = {name: _fusion(name) for name in names("fusion")}
    steps = [partial(_steps, fusion) for fusion in made.values()]
    measured = rounds_of(*steps, rounds=rounds)
    medians = dict(zip(made, (statistics.median(times) for times in zip(*measured, strict=True)), strict=True))
    return [
        Figure(
            f"fusion {name}",
            medians[name] / medians["concat"],
            "× concat",
            "",
            f"{sum(item.numel() for item in fusion.parameters()):,} parameters, {medians[name] / STEPS * 1e3:.1f} ms",
        )
        for name, fusion in made.items()
    ]


def _fusion(name: str) -> Fusion:
    torch.manual_seed(0)
    settings, dims = node("fusion", name), dict.fromkeys(MODALITIES, HIDDEN)
    derived = {"outputs": CLASSES} if "outputs" in signature(locate(settings["_target_"])).parameters else {}
    return instantiate(settings, where="fusion", kind=Fusion, dims=dims, hidden=HIDDEN, **derived).train()


def _steps(fusion: Fusion) -> float:
    generator = torch.Generator().manual_seed(0)
    features = {name: torch.randn(BATCH, FRAMES, HIDDEN, generator=generator) for name in MODALITIES}
    mask = {name: torch.ones(BATCH, FRAMES, dtype=torch.bool) for name in MODALITIES}
    present = {name: torch.ones(BATCH, dtype=torch.bool) for name in MODALITIES}
    optimizer = torch.optim.AdamW(fusion.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        output = fusion(features, mask, present)
        values = [output.fused, *([] if output.decided is None else [output.decided])]
        loss = torch.stack([*(value.square().mean() for value in values), *output.losses.values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return seconds(lambda: [step() for _ in range(STEPS)])


class _RawContext(nn.Module):
    """emorec's layers of one modality, and a GRU in both directions over the turns."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers = [nn.Dropout(DROPOUT), nn.Linear(dim, HIDDEN), nn.GELU()]
        layers += [nn.Dropout(DROPOUT), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT)]
        self.turns = nn.Sequential(*layers)
        self.gru = nn.GRU(HIDDEN, HIDDEN, batch_first=True, bidirectional=True)
        self.found = nn.Sequential(nn.Linear(2 * HIDDEN, HIDDEN), nn.Dropout(DROPOUT))
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(HIDDEN, CLASSES))

    def forward(self, vectors: Tensor, counts: Tensor) -> Tensor:
        """(N, C) logits of the turns of dialogues, one after the other."""
        turns = self.turns(vectors)
        padded = pad_sequence(list(turns.split(counts.tolist())), batch_first=True)
        packed = nn.utils.rnn.pack_padded_sequence(padded, counts, batch_first=True, enforce_sorted=False)
        found, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        known = torch.arange(padded.shape[1]) < counts[:, None]
        return self.head(turns + self.found(found[known]))  # type: ignore[no-any-return]


def context_epoch(root: Path, *, rounds: int = 5, epochs: int = 4) -> Figure:
    """Epochs of whole dialogues with a GRU over the turns, against a loop on ready tensors with the same optimizer."""
    preparer = DataPreparer(root / "cache")
    words = [*HEAD, f"dataset.longest_dialogue={LONGEST}", "context=bigru", f"batch_size={TURNS}", "test=false"]
    config = composed(words).config
    module = preparer.prepare(config, *preparer.components(config), dialogues=True).module(config)
    splits = []
    for split in ("train", "val"):
        table = module.tables[split]
        batch = table.batch(torch.arange(len(table)))
        counts = torch.unique_consecutive(batch.dialogue, return_counts=True)[1]
        splits.append((batch.features["text"][:, 0].clone(), batch.targets["emotion"], counts))
    number = iter(range(1_000_000))

    def ours() -> float:
        line = [*words, f"seed={next(number)}", f"trainer.max_epochs={epochs}"]
        return median_epoch(train(composed(line), preparer).folder)

    def raw() -> float:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as emorec trains a small head
        network = _RawContext(splits[0][0].shape[1])
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
        times = [seconds(lambda: _raw_epoch(network, optimizer, *splits)) for _ in range(epochs)]
        torch.set_num_threads(threads)
        return statistics.median(times[1:])

    measured = rounds_of(ours, raw, rounds=rounds)
    note = ", ".join(f"{own:.2f} s against {peer:.2f}" for own, peer in measured)
    ratio = statistics.median(own / peer for own, peer in measured)
    return Figure("context_epoch_vs_raw_loop", ratio, "ratio", "<= 1.2", note)


def one_pass(root: Path, *, rounds: int = 3, epochs: int = 4) -> Figure:
    """The students of three modalities and their mean in one run, against a run for each of the four.

    All learn from one teacher, a run on text, which is trained before.
    """
    preparer = DataPreparer(root / "cache")
    sizes = {"train": 4000, "val": 500, "test": 100, "files": True}
    Synthetic(root=str(root / "data" / "synthetic"), task="emotion", protocol="official", **sizes).make_files()  # type: ignore[arg-type]
    shared = ["dataset=synthetic", *(f"dataset.{name}={str(size).lower()}" for name, size in sizes.items())]
    shared += ["model.normalisation=none", "trainer.patience=null", "progress=false", "test=false"]
    shared += ["batch_size=64", f"trainer.max_epochs={epochs}"]

    def run(*words: str) -> str:
        return train(composed([*shared, *words]), preparer).run_id

    number = iter(range(1_000_000))
    teacher = f"distillation.teacher={run(*_encoders('text'), 'seed=0')}"
    students = [[*_encoders(modality), "loss=[cross_entropy,kd]", teacher] for modality in MODALITIES]
    fused = [*_encoders(*MODALITIES), "fusion=mean_logits", "loss=[cross_entropy,kd]", teacher]
    whole = [*_encoders(*MODALITIES), "fusion=mean_logits", "loss=[cross_entropy,kd,one_pass]", teacher]

    def separate() -> float:
        return sum(seconds(lambda words=words: run(*words, f"seed={next(number)}")) for words in (*students, fused))

    def together() -> float:
        return seconds(lambda: run(*whole, f"seed={next(number)}"))

    for words in (*students, fused, whole):  # features are read, and the teacher's predictions made
        run(*words, f"seed={next(number)}", "trainer.max_epochs=1")
    measured = rounds_of(together, separate, rounds=rounds)
    note = ", ".join(f"{own:.1f} s against {others:.1f}" for own, others in measured)
    ratio = statistics.median(own / others for own, others in measured)
    return Figure("one_pass_vs_separate", ratio, "ratio", "<= 0.4", note)


def _encoders(*chosen: str) -> list[str]:
    """Words that leave the other modalities out."""
    return [f"encoder/{modality}={'random' if modality in chosen else 'none'}" for modality in MODALITIES]


def _raw_epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer, train_split: Dialogues, val_split: Dialogues
) -> None:
    criterion = nn.CrossEntropyLoss()
    network.train()
    for vectors, target, counts in _batches(train_split, shuffle=torch.randperm):
        loss = criterion(network(vectors, counts), target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        logits = torch.cat([network(vectors, counts) for vectors, _, counts in _batches(val_split)])
        criterion(logits, val_split[1])
        summary_scores(confusion_matrix(val_split[1], logits.argmax(1), CLASSES))


def _batches(split: Dialogues, shuffle: Callable[[int], Tensor] = torch.arange) -> list[Dialogues]:
    """Dialogues in batches of about as many turns as emorec's, in an order; those of near equal length together."""
    vectors, target, counts = split
    first = counts.cumsum(0) - counts
    order = shuffle(len(counts))
    if shuffle is torch.randperm:
        order = order[counts[order].argsort(stable=True)]
    batches, chosen = [], []
    for index in order.tolist():
        longest = max(int(counts[other]) for other in [*chosen, index])
        if chosen and longest * (len(chosen) + 1) > TURNS:
            batches.append(chosen)
            chosen = []
        chosen.append(index)
    batches.append(chosen)
    result = []
    for batch in batches:
        rows = torch.cat([torch.arange(int(first[index]), int(first[index] + counts[index])) for index in batch])
        result.append((vectors[rows], target[rows], counts[torch.tensor(batch)]))
    return result
