"""A transformer over the turns, which knows who speaks."""

from typing import Literal

import torch
from torch import Tensor, nn

from emorec.annotations import Count, PositiveCount, Share
from emorec.context.context import Context, Speakers, same_speaker, speaker_slots
from emorec.context.window import window_mask
from emorec.errors import UserError
from emorec.layers import AttentionLayer, counted

View = Literal["all", "same", "other"]
MOST_SLOTS = 8  # speakers of a dialogue that are told apart
FARTHEST = 128  # turns whose positions are told apart


class Transformer(Context):
    """Layers of attention over the turns, whose heads look at all turns, at those of the same speaker, or of others.

    The masks are those of Shen et al. 2021, "DialogXL", arXiv 2012.08695. Turns have learned embeddings of their
    position and of their speaker, whose number is the order in which the dialogue's speakers begin.

    Args:
        causal: whether a turn sees itself and the turns before it only.
        past: number of turns before that a turn looks at; `None` for all.
        future: the same for turns after it; none where it is causal.
        depth: number of layers.
        heads: of each layer; a divisor of `hidden`.
        views: what the heads look at, one after the other: "all", "same" or "other" speakers, and the turn itself.
        dropout: in the layers, and of what is added.
        speakers: see `Context`.
    """

    def __init__(
        self,
        *,
        hidden: int,
        causal: bool = False,
        past: Count | None = None,
        future: Count | None = None,
        depth: PositiveCount = 2,
        heads: PositiveCount = 4,
        views: list[View] | None = None,
        dropout: Share = 0.0,
        speakers: Speakers = "dialogue",
    ) -> None:
        super().__init__(hidden=hidden, width=hidden, dropout=dropout, speakers=speakers)
        if hidden % heads:
            raise UserError(f"context.heads: expected a divisor of model.hidden={hidden}, got {heads}")
        views = views or ["all"]
        if heads % len(views):
            raise UserError(f"context.heads: expected a multiple of the {len(views)} views, got {heads}")
        self.past, self.future = past, 0 if causal else future
        self.views = [views[head % len(views)] for head in range(heads)]
        self.position = nn.Parameter(torch.randn(FARTHEST, hidden) * 0.02)
        self.slot = nn.Parameter(torch.randn(MOST_SLOTS, hidden) * 0.02)
        self.layers = nn.ModuleList(AttentionLayer(hidden, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)

    def gather(self, turns: Tensor, mask: Tensor, speaker: Tensor) -> Tensor:
        number = counted(turns.shape[1], turns.device)
        slots = speaker_slots(speaker, mask).clamp_max(MOST_SLOTS - 1)
        turns = turns + self.position[number.clamp_max(FARTHEST - 1)] + self.slot[slots]
        joined, same = window_mask(mask, self.past, self.future), same_speaker(speaker)
        itself = number[:, None] == number  # (U, U)
        of_views = {"all": joined, "same": joined & same, "other": joined & (~same | itself)}
        looks = torch.stack([of_views[view] for view in self.views], dim=1)  # (B, heads, U, U)
        for layer in self.layers:
            turns = layer(turns, looks)
        found: Tensor = self.norm(turns)
        return found
