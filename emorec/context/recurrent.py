"""A recurrent network over the turns."""

from typing import Literal

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.context.context import Context, Speakers, reverse
from emorec.dropout import Dropout


class Recurrent(Context):
    """A GRU or an LSTM over the turns, in both directions unless it is causal.

    Poria et al. 2017, "Context-dependent sentiment analysis in user-generated videos" (bc-LSTM), doi
    10.18653/v1/P17-1081. What it finds is added to the turn, which the paper replaces by it.

    Args:
        cell: "gru" or "lstm".
        causal: whether a turn sees itself and the turns before it only.
        depth: number of layers.
        dropout: between the layers, and of what is added.
        speakers: see `Context`.
    """

    def __init__(
        self,
        *,
        hidden: int,
        cell: Literal["gru", "lstm"] = "gru",
        causal: bool = False,
        depth: PositiveCount = 1,
        dropout: Share = 0.0,
        speakers: Speakers = "dialogue",
    ) -> None:
        directions = 1 if causal else 2
        super().__init__(hidden=hidden, width=directions * hidden, dropout=dropout, speakers=speakers)
        make = nn.GRU if cell == "gru" else nn.LSTM
        widths = [hidden, *[directions * hidden] * (depth - 1)]
        self.past = nn.ModuleList(make(width, hidden, batch_first=True) for width in widths)
        self.future = None if causal else nn.ModuleList(make(width, hidden, batch_first=True) for width in widths)
        self.between = Dropout(dropout)

    def gather(self, turns: Tensor, mask: Tensor, speaker: Tensor) -> Tensor:
        for number, past in enumerate(self.past):
            inputs = turns if number == 0 else self.between(turns)
            turns = past(inputs)[0]
            if self.future is not None:
                backwards = self.future[number](reverse(inputs, mask))[0]
                turns = torch.cat([turns, reverse(backwards, mask)], dim=2)
        return turns
