"""Inputs of a graph with padding and missing modalities, and what the run itself says about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from emorec.batch import Batch
from emorec.encoders.speech_part import TAIL
from emorec.inference.export.graph import LAYOUT, SPEAKERS
from emorec.inference.export.graph_input import GraphInput, Kind
from emorec.inference.export.port import Port
from emorec.models.emotion_model import EmotionModel

Array = NDArray[Any]
ROWS, SIZES = (1, 3, 17), 3  # of the batches that are compared, and how many lengths
STEPS: Mapping[Kind, tuple[int, int, int]] = {  # the lengths of their longest rows
    "features": (1, 9, 23),
    "tokens": (2, 9, 23),
    "sound": (1, 3200, 7001),
    "bands": (1, 45, 80),
    "frames": (1, 3, 5),
}
LOUDNESS = 0.1  # of noise, of full scale


@dataclass(frozen=True)
class Example:
    """Inputs of a graph."""

    tensors: dict[str, Array]  # {name: values}
    rows: dict[str, list[Array | None]]  # {modality: its B inputs, without padding; `None` where it is missing}
    # {modality: the waveforms that they are computed of}, for log mel bands
    sounds: dict[str, list[Array | None]] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Its sizes, in words."""
        return ", ".join(f"{name} {tuple(values.shape)}" for name, values in self.tensors.items())


def make_example(
    ports: Mapping[str, Port], model: EmotionModel, *, rows: int, size: int, generator: Generator
) -> Example:
    """Random inputs of `rows` utterances.

    The first row is the longest. Where there are several modalities some are missing; with a context a whole turn is.

    Args:
        size: which of the lengths in `STEPS`, from 0 on.
    """
    there = _present(list(ports), rows, with_context=model.context is not None)
    found: dict[str, list[Array | None]] = {}
    sounds: dict[str, list[Array | None]] = {}
    tensors: dict[str, Array] = {}
    for name, port in ports.items():
        lengths = _lengths(port.declared, rows, size, generator)
        made = [_made(port, model, int(length), generator) for length in lengths]
        pairs = [pair if known else (None, None) for pair, known in zip(made, there[name], strict=True)]
        found[name], sounds[name] = [value for value, _ in pairs], [sound for _, sound in pairs]
        tensors |= padded(port.declared, found[name])
    if model.context is not None:
        tensors |= dialogues(rows, generator)
    return Example(tensors, found, sounds)


def _present(modalities: Sequence[str], rows: int, *, with_context: bool) -> dict[str, list[bool]]:
    """{modality: whether each row has it}."""
    there = {name: [True] * rows for name in modalities}
    if len(modalities) > 1:
        for row in range(1, rows):
            for number, name in enumerate(modalities):
                there[name][row] = row % 3 == 0 or (row + number) % len(modalities) != 0
    if with_context and rows > 1:
        for name in modalities:
            there[name][1] = False
    return there


def _lengths(declared: GraphInput, rows: int, size: int, generator: Generator) -> NDArray[np.int64]:
    """(rows,) lengths, the first one as long as `size` says, within what the input allows."""
    if declared.steps is not None:
        return np.full(rows, declared.steps)
    longest = max(STEPS[declared.kind][size], declared.shortest)
    longest = min(longest, declared.longest or longest)
    lengths = generator.integers(min(declared.shortest, longest), longest + 1, rows)
    lengths[0] = longest
    return lengths if declared.pads_exactly else np.full(rows, longest)


def _made(port: Port, model: EmotionModel, length: int, generator: Generator) -> tuple[Array, Array | None]:
    """One input (T, …), and the waveform that it is computed of."""
    declared = port.declared
    if declared.kind == "features":
        values = generator.normal(size=(length, *declared.sizes))
        normalisation = model.normalisation[declared.name]
        if getattr(normalisation, "mean", None) is not None:
            values = values / normalisation.scale.cpu().numpy() + normalisation.mean.cpu().numpy()  # type: ignore[union-attr, operator]
        return values.astype(np.float32), None
    if declared.kind == "tokens":
        assert declared.vocabulary is not None
        return generator.integers(1, declared.vocabulary, length), None
    if declared.kind == "frames":
        return generator.integers(0, 256, (length, *declared.sizes), dtype=np.uint8), None
    if declared.kind == "sound":
        return noise(length, generator), None
    encoder: Any = port.encoder
    encoder.load()
    sound = noise((length - TAIL) * int(declared.settings["hop_length"]), generator)
    return encoder.bands_of(sound), sound


def noise(length: int, generator: Generator) -> NDArray[np.float32]:
    """A waveform (samples,) that swells."""
    envelope = np.sin(np.linspace(0, 9, length)) ** 2 + 0.1
    return (LOUDNESS * envelope * generator.normal(size=length)).clip(-1, 1).astype(np.float32)


def padded(declared: GraphInput, rows: Sequence[Array | None]) -> dict[str, Array]:
    """{name: tensor} of a modality's B inputs (T, …), with their lengths."""
    lengths = np.array([0 if row is None else len(row) for row in rows], np.int64)
    steps = declared.steps or max(int(lengths.max()), declared.shortest)
    values = np.zeros((len(rows), steps, *declared.sizes), declared.dtype)
    for number, row in enumerate(rows):
        if row is not None:
            values[number, : len(row)] = row
    return {declared.name: values, declared.lengths: lengths}


def dialogues(rows: int, generator: Generator) -> dict[str, Array]:
    """{name: tensor} of the layout (D, U) of some turns in dialogues, and their speakers (B,)."""
    counts: list[int] = []
    while sum(counts) < rows:
        counts.append(min(1 + len(counts) * 2, rows - sum(counts)))
    layout = np.full((len(counts), max(counts)), -1, np.int64)
    start = 0
    for number, count in enumerate(counts):
        layout[number, :count] = np.arange(start, start + count)
        start += count
    return {LAYOUT: layout, SPEAKERS: generator.integers(-1, 3, rows)}


def outputs_of_run(ports: Mapping[str, Port], model: EmotionModel, example: Example) -> tuple[Array, ...]:
    """What the run itself computes of an example: probabilities (B, C) and logits (B, C), or values (B, K).

    Each utterance is encoded alone, by the run's encoder, and the batch goes through the model's `forward`.
    """
    stored: dict[str, Tensor] = {}
    mask: dict[str, Tensor] = {}
    for name, port in ports.items():
        sounds = example.sounds.get(name) or [None] * len(example.rows[name])
        rows = [
            None if value is None else port.stored_row(value, sound)
            for value, sound in zip(example.rows[name], sounds, strict=True)
        ]
        stored[name], mask[name] = _batched(rows)
    present = {name: torch.tensor([row is not None for row in rows]) for name, rows in example.rows.items()}
    live = {name for name, port in ports.items() if port.encoder.mode != "frozen"}
    count = len(next(iter(example.rows.values())))
    nothing = torch.full((count,), -1)
    layout, speakers = (example.tensors.get(name) for name in (LAYOUT, SPEAKERS))
    batch = Batch(
        id=tuple(str(number) for number in range(count)),
        features={name: values for name, values in stored.items() if name not in live},
        inputs={name: values for name, values in stored.items() if name in live},
        mask=mask,
        present=present,
        targets={},
        target_mask={},
        speaker=nothing if speakers is None else torch.from_numpy(speakers),
        dialogue=nothing,
        turn=nothing,
        layout=None if layout is None else torch.from_numpy(layout),
    )
    with torch.inference_mode():
        logits = model(batch).logits[model.task.name].float()
    found = (logits,) if model.task.kind == "regression" else (logits.softmax(1), logits)
    return tuple(values.numpy() for values in found)


def _batched(rows: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Rows (T, I) as a batch (B, T, I) with its mask (B, T); a missing one is a row of zeros."""
    empty = next(row for row in rows if row is not None)[:1] * 0  # the first row has all modalities
    values = torch.nn.utils.rnn.pad_sequence([empty if row is None else row for row in rows], batch_first=True)
    lengths = torch.tensor([0 if row is None else len(row) for row in rows])
    return values, torch.arange(values.shape[1]) < lengths[:, None]
