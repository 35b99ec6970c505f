"""DialogueGCN: a graph of the turns of a dialogue."""

import torch
from torch import Tensor, nn

from emorec.annotations import Count, Share
from emorec.context.context import Context, Speakers, same_speaker
from emorec.context.recurrent import Recurrent
from emorec.context.window import window_mask
from emorec.dropout import Dropout


class DialogueGCN(Context):
    """A recurrent network, then two graph convolutions over the turns near each turn.

    Ghosal et al. 2019, "DialogueGCN: a graph convolutional neural network for emotion recognition in conversation",
    arXiv 1908.11540. The paper has a relation for each pair of speakers and each direction. Here a relation is whether
    the speakers are the same, and the direction: the number of speakers does not matter. What is found is added to the
    turn, which the paper replaces by it.

    Args:
        causal: whether a turn sees itself and the turns before it only.
        past: number of turns before that a turn is joined with.
        future: the same for turns after it; none where it is causal.
        dropout: of the recurrent network, after the convolutions, and of what is added.
        speakers: see `Context`.
    """

    def __init__(
        self,
        *,
        hidden: int,
        causal: bool = False,
        past: Count = 10,
        future: Count = 10,
        dropout: Share = 0.0,
        speakers: Speakers = "dialogue",
    ) -> None:
        super().__init__(hidden=hidden, width=2 * hidden, dropout=dropout, speakers=speakers)
        self.past, self.future = past, 0 if causal else future
        self.sequence = Recurrent(hidden=hidden, causal=causal, dropout=dropout)
        self.similarity = nn.Linear(hidden, hidden, bias=False)
        count = 4 if self.future else 3  # a turn itself has no other speaker
        self.relations = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(count))
        self.own = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))
        self.neighbours = nn.Linear(hidden, hidden, bias=False)
        self.after = Dropout(dropout)

    def gather(self, turns: Tensor, mask: Tensor, speaker: Tensor) -> Tensor:
        turns = self.sequence(turns, mask, speaker)
        joined = window_mask(mask, self.past, self.future)  # (B, U, U)
        scores = torch.einsum("bih,bjh->bij", self.similarity(turns), turns)
        weights = scores.masked_fill(~joined, torch.finfo(scores.dtype).min).softmax(2)
        before = torch.ones_like(joined[0]).tril(-1)  # (U, U), the second turn is before the first
        same = same_speaker(speaker)
        hidden = self.own[0](turns)
        kinds = (same & before, ~same & before, same & ~before, ~same & ~before)[: len(self.relations)]
        for relation, kind in zip(self.relations, kinds, strict=True):
            edges = kind & joined
            count = edges.sum(2, keepdim=True).clamp_min(1)
            hidden = hidden + torch.einsum("bij,bjh->bih", weights * edges / count, relation(turns))
        hidden = self.after(hidden.relu())
        near = joined.to(hidden.dtype)
        mean = torch.einsum("bij,bjh->bih", near / near.sum(2, keepdim=True), self.neighbours(hidden))
        hidden = self.own[1](hidden) + mean
        return torch.cat([turns, self.after(hidden.relu())], dim=2)
