"""Utterances that lack modalities, though they have them."""

import torch
from torch import Tensor

from emorec.augmentation.streams import Stream
from emorec.draws import uniform


def drop_modalities(present: dict[str, Tensor], rate: float, draw: Tensor) -> dict[str, Tensor]:
    """`present` with modalities dropped, each with a probability; of an utterance that has any, one always stays.

    Args:
        present: {modality: (B,)}, true where the utterance has the modality.
        rate: the probability, below 1.
        draw: (B,) int64 keys, of which what is dropped is a function.
    """
    available = torch.stack(list(present.values()), dim=1)  # (B, M)
    numbers = uniform(draw, len(present), stream=Stream.MODALITIES)
    last = numbers.masked_fill(~available, -1).argmax(1, keepdim=True)
    kept = available & (numbers >= rate).scatter(1, last, True)
    return dict(zip(present, kept.unbind(1), strict=True))
