"""Pretrained networks that train: in full, in their upper layers, or by LoRA."""

import re
from abc import abstractmethod
from typing import Any

from torch import Tensor

from emorec.augmentation.spans import length_mask
from emorec.encoders.layer_stack import LayerStack
from emorec.encoders.trained import TrainedPart

FRONT = ("feature_extractor", "conv1", "conv2")  # the convolutions of speech models


class PretrainedPart(TrainedPart):
    """The layers of a pretrained network above a cut.

    Args:
        stack: the layers; it takes decoded inputs where nothing is cut off.
        raw: whether `frames` returns all states of the layers.
        train_front: whether the convolutions of a speech model are trained as well.
        options: of `TrainedPart`.
    """

    def __init__(self, stack: LayerStack, *, train_front: bool = False, raw: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.stack, self.raw = stack, raw
        self.lora: Any = None  # the settings of its adapters, as peft's `LoraConfig`
        network: Any = stack.network
        network.config.layerdrop = network.layerdrop = 0.0  # ranks would skip different layers, and wait for ever
        for name in (
            "masked_spec_embed",
            "positions",
            "post_layernorm",
            "embed_positions",
        ):  # the last: Whisper's sines
            self._freeze(name)
        if not train_front:
            for name in FRONT:
                self._freeze(name)
        if extractor := getattr(network, "feature_extractor", None):
            extractor._requires_grad = train_front

    def _freeze(self, name: str) -> None:
        for owner in (self.stack, self.stack.network):
            if (part := getattr(owner, name, None)) is not None:
                part.requires_grad_(False)

    @property
    def frame_dim(self) -> int:
        return int(self.stack.network.config.hidden_size)

    @property
    def layer_count(self) -> int:
        return len(self.stack.wanted)

    @abstractmethod
    def prepared(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The network's input, and the mask (N, T') of the frames that it gives; see `frames` for the arguments."""

    def vectors(self, states: Tensor) -> Tensor:
        """The frames (N, T', L · D) of the states of the layers."""
        return states

    def states(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The states (N, T, L · D) of the layers, and the number (N,) of those that are data."""
        mask = length_mask(lengths, values.shape[1])
        inputs, mask = (values, mask) if self.stack.first else self.prepared(values, lengths)
        return self.stack(inputs, mask), mask.sum(1)

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        states, counts = self.states(values.float() if self.stack.first else values, lengths)
        return (states if self.raw else self.vectors(states)), counts

    def depth(self, name: str) -> int:
        found = re.search(rf"{re.escape(self.stack.kind.layers)}\.(\d+)\.", name)
        if found:
            return self.stack.top - int(found[1])
        is_norm = self.stack.norm_path is not None and f".{self.stack.norm_path}." in name
        return 0 if is_norm else self.stack.top - self.stack.first + 1

    def train(self, mode: bool = True) -> "PretrainedPart":
        """Sets training mode; frozen convolutions stay in evaluation mode."""
        super().train(mode)
        for name in FRONT:
            part = getattr(self.stack.network, name, None)
            if part is not None and not any(item.requires_grad for item in part.parameters()):
                part.eval()
        return self
