"""The trained part of encoders of pictures and of clips."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from emorec.augmentation.spans import length_mask
from emorec.encoders.pixels import pictures
from emorec.encoders.pretrained_part import PretrainedPart
from emorec.encoders.trained import TrainedPart


def scaled_pixels(values: Tensor, size: int, factor: Tensor, shift: Tensor) -> Tensor:
    """Pixels (N, F, S · S · 3) from 0 to 255 as (N, F, 3, S, S), as the network expects them."""
    return pictures(values, size) * factor + shift


class ConvolutionPart(TrainedPart):
    """EfficientNet, which reads each frame of (N, F, S · S · 3) separately and has no layers of one width.

    Args:
        network: EfficientNet of transformers.
        size, factor, shift: see `PicturePart`.
        options: of `TrainedPart`.
    """

    def __init__(self, *, network: Any, size: int, factor: Tensor, shift: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.network, self.size = network, size
        self.register_buffer("factor", factor, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    @property
    def frame_dim(self) -> int:
        return int(self.network.config.hidden_dim)

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        pixels = scaled_pixels(values, self.size, self.get_buffer("factor"), self.get_buffer("shift"))
        vectors = self.network(pixels.flatten(0, 1)).pooler_output  # (N · F, D)
        return vectors.reshape(values.shape[0], -1, vectors.shape[1]), lengths


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
        scaled = scaled_pixels(values, self.size, self.get_buffer("factor"), self.get_buffer("shift"))
        return scaled, length_mask(lengths, values.shape[1])

    def states(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        inputs = values if self.stack.first else self.prepared(values, lengths)[0]
        if not self.clip:  # each picture by itself
            inputs = inputs.reshape(-1, self.tokens, values.shape[2]) if self.stack.first else inputs.flatten(0, 1)
        whole = torch.ones(inputs.shape[:2], dtype=torch.bool, device=values.device)
        states = self.stack(inputs, whole)  # (N, tokens, L · D), or (N · F, tokens, L · D)
        joined = states.reshape(values.shape[0], -1, states.shape[2])  # (N, T, L · D)
        counts = lengths if self.clip or self.stack.first else lengths * self.tokens
        return joined, torch.full_like(counts, joined.shape[1]) if self.clip else counts

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        states, counts = self.states(values.float() if self.stack.first else values, lengths)
        if self.raw:
            return states, counts
        if self.clip:
            steps = self.steps(states)
            return steps, torch.full_like(counts, steps.shape[1])
        pictures = states.reshape(-1, self.tokens, states.shape[2])  # (N · F, tokens, L · D)
        vectors = self.steps(pictures).reshape(values.shape[0], -1, states.shape[2])  # (N, F, L · D)
        return vectors, counts // self.tokens
