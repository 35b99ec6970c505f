"""Inputs of each kind, and everything that augments them."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from emorec.augmentation.frames import FrameAugmentation
from emorec.augmentation.spectrogram import SpectrogramAugmentation
from emorec.augmentation.streams import Augment
from emorec.augmentation.tokens import TokenAugmentation
from emorec.augmentation.waveform import WaveformAugmentation
from emorec.draws import keys_of

RATE = 16_000
SIZE = 12  # pixels
EVERYTHING: dict[str, Augment] = {
    "waveform": partial(
        WaveformAugmentation(speed=(0.9, 1.1), reverberation=(0.1, 0.4), noise_snr=(5, 30), gain=(-6, 6)).vary,
        rate=RATE,
    ),
    "spectrogram": SpectrogramAugmentation(
        stretch=0.3, frequency_shift=2.5, crop=0.7, shift=0.3, time_masks=2, frequency_masks=2
    ).vary,
    "frames": FrameAugmentation(flip=0.5, color_jitter=0.3, crop=0.6, drop_frames=0.3).vary,
    "tokens": partial(TokenAugmentation(dropout=0.3).vary, replacement=3, kept=(0, 1)),
}
MAKE: dict[str, Callable[[int], Tensor]] = {
    "waveform": lambda length: (3000 * torch.randn(40 * length, 1)).to(torch.int16),
    "spectrogram": lambda length: torch.randn(length, 16),
    "frames": lambda length: torch.randint(0, 256, (length, SIZE * SIZE * 3), dtype=torch.uint8),
    "tokens": lambda length: torch.randint(4, 1000, (length, 1), dtype=torch.int32),
}


def draws(count: int, epoch: int = 0) -> Tensor:
    return keys_of([f"{epoch} u{number}" for number in range(count)])


def padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Values (N, T, I) and lengths (N,)."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])
