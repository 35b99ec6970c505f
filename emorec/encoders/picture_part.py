"""The trained part of encoders of pictures and of clips."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from emorec.encoders.pretrained_part import PretrainedPart
from emorec.encoders.trained import length_mask


class PicturePart(PretrainedPart):
    """Reads frames (N, F, S · S · 3) of pixels from 0 to 255, or states of a layer (N, tokens, D).

    Args:
        clip: whether the network reads all frames of an utterance together.
        size: S in pixels.
        tokens: of a picture, or of a clip.
        factor: (3, 1, 1) of the pixels.
        shift: (3, 1, 1), is added afterwards.
        steps: the vectors of the time steps (N, T, L · D) of the states (N, tokens, L · D), or (N, L · D) of a picture.
        options: of `PretrainedPart`.
    """

    def __init__(
        self,
        *,
        clip: bool,
        size: int,
        tokens: int,
        factor: Tensor,
        shift: Tensor,
        steps: Callable[[Tensor], Tensor],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.clip, self.size, self.tokens, self.steps = clip, size, tokens, steps
        self.register_buffer("factor", factor, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def prepared(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        pixels = values.unflatten(2, (self.size, self.size, 3)).permute(0, 1, 4, 2, 3)  # (N, F, 3, S, S)
        return pixels.float() * self.get_buffer("factor") + self.get_buffer("shift"), length_mask(lengths, values.shape[1])

    def states(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if self.clip:
            return super().states(values, lengths)
        if self.stack.first:  # (N, F · tokens, D)
            pictures = values.unflatten(1, (-1, self.tokens)).flatten(0, 1)
        else:
            pictures = self.prepared(values, lengths)[0].flatten(0, 1)  # (N · F, 3, S, S)
        whole = torch.ones(pictures.shape[:2], dtype=torch.bool, device=values.device)
        states = self.stack(pictures, whole)  # (N · F, tokens, L · D)
        return states.unflatten(0, (len(values), -1)).flatten(1, 2), lengths if self.stack.first else lengths * self.tokens

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        states, counts = self.states(values.float() if self.stack.first else values, lengths)
        if self.raw:
            return states, counts
        if self.clip:
            steps = self.steps(states)
            return steps, torch.full_like(counts, steps.shape[1])
        pictures = states.unflatten(1, (-1, self.tokens)).flatten(0, 1)  # (N · F, tokens, L · D)
        vectors = self.steps(pictures).unflatten(0, (len(values), -1))  # (N, F, L · D)
        return vectors, counts // self.tokens
