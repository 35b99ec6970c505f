"""The base class of contexts."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from emorec.dropout import Dropout
from emorec.layers import counted

SLOTS = 1024  # of embeddings of names, far more than a corpus has frequent speakers
Speakers = Literal["dialogue", "name"]


class Context(nn.Module, ABC):
    """Adds to each turn of a dialogue what the other turns say about it.

    Args:
        hidden: H of the turns.
        width: of what `gather` finds.
        dropout: of what is added.
        speakers: how they are told apart: within a "dialogue" only, as in a corpus of strangers, or by "name" as well,
            with an embedding of each, as of the main cast of a series.
    """

    unexportable: ClassVar[str] = ""  # why it cannot be exported as a graph; "" where it can

    def __init__(self, *, hidden: int, width: int, dropout: float, speakers: Speakers = "dialogue") -> None:
        super().__init__()
        self.hidden = hidden
        self.names = SpeakerNames(hidden) if speakers == "name" else None
        self.layer = nn.Linear(width, hidden)
        self.dropout = Dropout(dropout)

    def forward(self, turns: Tensor, mask: Tensor, speaker: Tensor) -> Tensor:
        """(B, U, H), the turns in their context; what becomes of padding is not defined.

        Args:
            turns: (B, U, H), of B dialogues of up to U turns.
            mask: (B, U), true for the first turns of each dialogue, at least one, and false for padding.
            speaker: (B, U) int64 numbers of the speakers' names; all unknown ones, -1, count as one.
        """
        if self.names is not None:
            turns = turns + self.names(speaker)
        added: Tensor = self.dropout(self.layer(self.gather(turns, mask, speaker)))
        return turns + added

    @abstractmethod
    def gather(self, turns: Tensor, mask: Tensor, speaker: Tensor) -> Tensor:
        """(B, U, width), what is found about each turn."""


class SpeakerNames(nn.Module):
    """A learned vector (B, U, `hidden`) for the numbers (B, U) of speakers' names.

    It is zero for unknown speakers, -1, and for those that training has not seen. The number of a name modulo `SLOTS`
    chooses the vector (Weinberger et al. 2009, "Feature hashing", arXiv 0902.2206), so that no list of names is kept.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.zeros(SLOTS, hidden))

    def forward(self, speaker: Tensor) -> Tensor:
        return self.vectors[speaker.remainder(SLOTS)] * (speaker >= 0)[..., None]


def reverse(turns: Tensor, mask: Tensor) -> Tensor:
    """(B, U, …) with the turns of each dialogue, those where the mask (B, U) is true, in reverse order.

    Padding stays at the end. A second call restores the order.
    """
    count = mask.sum(1, keepdim=True)  # (B, 1)
    index = counted(mask.shape[1], mask.device)
    index = torch.where(index < count, count - 1 - index, index)  # (B, U)
    return turns.gather(1, index.view(*index.shape, *(1 for _ in turns.shape[2:])).expand(turns.shape))


def same_speaker(speaker: Tensor) -> Tensor:
    """(B, U, U), true where two turns have the same speaker (B, U)."""
    return speaker[:, :, None] == speaker[:, None]


def speaker_slots(speaker: Tensor, mask: Tensor) -> Tensor:
    """(B, U) from 0 on: the speakers (B, U) of each dialogue, numbered by their first turn; 0 for padding.

    So nothing depends on who a speaker is, or on how a corpus numbers them.
    """
    same = same_speaker(speaker) & mask[:, :, None] & mask[:, None]
    first = same.int().argmax(2)  # (B, U), the first turn of each turn's speaker
    begins = (first == counted(speaker.shape[1], speaker.device)) & mask
    return ((begins.long().cumsum(1) - 1).gather(1, first) * mask).clamp_min(0)
