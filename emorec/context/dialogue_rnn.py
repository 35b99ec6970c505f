"""DialogueRNN: a state for the dialogue, one for each speaker, and one for the emotion."""

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.context.context import Context, Speakers, reverse, speaker_slots


class DialogueRNN(Context):
    """Recurrent states of the dialogue, of its speakers and of the emotion, in both directions unless it is causal.

    Majumder et al. 2019, "DialogueRNN: an attentive RNN for emotion detection in conversations", arXiv 1811.00405.
    Listeners keep their state, and there is no attention over the states of emotion. What is found is added to the
    turn, which the paper replaces by it.

    Args:
        causal: whether a turn sees itself and the turns before it only.
        state: width of each state; `None` for `hidden`.
        dropout: of what is added.
        speakers: see `Context`.
    """

    unexportable: ClassVar[str] = "its loop over the turns would be fixed to one number of turns"

    def __init__(
        self,
        *,
        hidden: int,
        causal: bool = False,
        state: PositiveCount | None = None,
        dropout: Share = 0.0,
        speakers: Speakers = "dialogue",
    ) -> None:
        width = state or hidden
        super().__init__(hidden=hidden, width=width if causal else 2 * width, dropout=dropout, speakers=speakers)
        self.past = DialogueStates(hidden, width)
        self.future = None if causal else DialogueStates(hidden, width)

    def gather(self, turns: Tensor, mask: Tensor, speaker: Tensor) -> Tensor:
        slots = speaker_slots(speaker, mask)
        found = cast(Tensor, self.past(turns, slots))
        if self.future is None:
            return found
        backwards = self.future(reverse(turns, mask), reverse(slots, mask))
        return torch.cat([found, reverse(backwards, mask)], dim=2)


class DialogueStates(nn.Module):
    """The states of emotion (B, U, `width`) after each turn (B, U, `hidden`), in one direction."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.dialogue = nn.GRUCell(hidden + width, width)
        self.party = nn.GRUCell(hidden + width, width)
        self.emotion = nn.GRUCell(width, width)
        self.query = nn.Linear(hidden, width, bias=False)

    def forward(self, turns: Tensor, slots: Tensor) -> Tensor:
        """States for turns whose speakers have the numbers `slots` (B, U), from 0 on."""
        rows, count = turns.shape[:2]
        nothing = turns.new_zeros(rows, self.width)
        parties = turns.new_zeros(rows, count, self.width)  # there are at most as many speakers as turns
        dialogue = emotion = nothing
        before: list[Tensor] = []  # states of the dialogue
        after = []  # states of emotion
        for turn, slot in zip(turns.unbind(1), slots.unbind(1), strict=True):
            own = slot[:, None, None].expand(-1, 1, self.width)
            party = parties.gather(1, own).squeeze(1)  # (B, width), of the speaker
            dialogue = self.dialogue(torch.cat([turn, party], dim=1), dialogue)
            attended = self._attended(turn, before) if before else nothing
            party = self.party(torch.cat([turn, attended], dim=1), party)
            parties = parties.scatter(1, own, party[:, None].to(parties.dtype))
            emotion = self.emotion(party, emotion)
            before.append(dialogue)
            after.append(emotion)
        states = torch.stack(after, dim=1)
        if count == 1:  # nothing was attended to, but other ranks wait for the gradient of each parameter
            states = states + 0 * (dialogue.sum() + self.query(turns).sum())
        return states

    def _attended(self, turn: Tensor, states: list[Tensor]) -> Tensor:
        """(B, width), the mean of the dialogue's states, weighted by their products with the turn."""
        stacked = torch.stack(states, dim=1)  # (B, t, width)
        weights = torch.einsum("bth,bh->bt", stacked, self.query(turn)).softmax(1)
        return torch.einsum("bt,bth->bh", weights, stacked)
