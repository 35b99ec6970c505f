"""What pretrained encoders of text, audio and video share: checkpoint, layers, precision."""

from abc import abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from emorec.annotations import Pattern
from emorec.encoders.checkpoint import load_pretrained, read_settings, resolve_revision
from emorec.encoders.encoder import Encoder, Training
from emorec.errors import UserError

Name = Annotated[str, Pattern(".+", "a name")]
LAST = -1  # the number of the layer that is the network's output

# Keys of the number of layers in a config.json. Whisper's has two, and that of its encoder counts.
COUNTS = ("encoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(kw_only=True, eq=False)
class HuggingFaceEncoder(Encoder):
    """A pretrained network of the Hugging Face hub, or of a local folder, frozen.

    Args:
        model: the model's name on the hub, or a local folder made by `save_pretrained`.
        revision: branch, tag or commit on the hub; the commit it resolves to counts. Not used for a local folder.
        layer: a number, a list of numbers, or "all": -1 the network's output, 0 the embeddings, n the n-th layer.
            Where a last normalisation follows the layers, -1 includes it and the n-th does not.
        pooling: "mean" over time, or "none" for all frames.
        precision: what the forward pass computes in (autocast): "float32", "bfloat16", or "float16" (on a GPU).
    """

    model: Name
    revision: Name = "main"
    layer: int | list[int] | Literal["all"] = -1
    pooling: str = "mean"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self, training: Training) -> None:
        super().__post_init__(training)
        if isinstance(self.layer, list) and (not self.layer or len(set(self.layer)) < len(self.layer)):
            raise UserError(f"expected {self.where}.layer to be a list of different layers, got {self.layer!r}")
        self._backbone: Any = None

    @property
    def dim(self) -> int:
        self.load()
        return int(self._backbone.config.hidden_size)

    @cached_property
    def layers(self) -> tuple[int, ...]:
        if isinstance(self.layer, int | list):
            return tuple(self.layer) if isinstance(self.layer, list) else (self.layer,)
        config = read_settings(self.model, self.resolved[1], "config.json")
        tower = config.get("vision_config") or config
        counts = [tower[name] for name in COUNTS if isinstance(tower.get(name), int)]
        if not counts:
            raise UserError(
                f"expected the number of layers in config.json of {self.model!r} for {self.where}.layer=all, got none "
                f"of {COUNTS}; list the layers instead: {self.where}.layer=[0,1,2]"
            )
        return tuple(range(counts[0] + 1))  # 0 are the embeddings

    @cached_property
    def resolved(self) -> tuple[str, str]:
        """What identifies the checkpoint: ("local", digest of the folder) or (name on the hub, commit)."""
        return resolve_revision(self.model, self.revision, self.digests)

    @property
    @abstractmethod
    def processor(self) -> dict[str, Any]:
        """What identifies the preparation of the network's input."""

    def settings(self) -> dict[str, Any]:
        checkpoint, revision = self.resolved
        processor = {**self.processor, "precision": self.precision}
        return {"checkpoint": checkpoint, "revision": revision, "pooling": self.pooling, "processor": processor}

    def load(self) -> None:
        if self._backbone is None:
            self._backbone = self._load_network()

    @abstractmethod
    def _load_network(self) -> Any:
        """Loads the network, and checks that the arguments fit it."""

    def _pretrained(self, factory: Any) -> Any:
        """The object that `factory` (a class of transformers) loads from the checkpoint."""
        return load_pretrained(factory, self.model, self.resolved[1])

    def _frozen(self, factory: Any) -> Any:
        """The network that `factory` loads, in evaluation mode and without gradients."""
        return self._pretrained(factory).eval().requires_grad_(False)

    def _require_layers(self, network: Any) -> None:
        """Raises a `UserError` for layers that the network does not have."""
        count = network.config.num_hidden_layers
        missing = [layer for layer in self.layers if not LAST <= layer <= count]
        if missing:
            shown = missing[0] if len(self.layers) == 1 else missing
            raise self._misfit(f"layer from -1 to {count}", shown)

    def _misfit(self, expected: str, got: Any) -> UserError:
        """The error of an argument that does not fit the network."""
        return UserError(f"expected {self.where}.{expected} for {self.model}, got {got}")

    def _output(self, *inputs: Tensor, **named: Tensor) -> Any:
        """The output of the network, with the hidden states that `_states` needs."""
        return self._backbone(*inputs, **named, output_hidden_states=self.layers != (LAST,))

    def _states(self, output: Any) -> Tensor:
        """The states (B, …, L · D) of the L layers side by side."""
        states = [output.last_hidden_state if layer == LAST else output.hidden_states[layer] for layer in self.layers]
        return states[0] if len(states) == 1 else torch.cat(states, dim=-1)

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """A context for the forward pass on a device.

        Raises:
            UserError: the device cannot compute in the precision.
        """
        if self.precision == "float16" and device.type == "cpu":
            raise UserError(f"expected {self.where}.precision=float32 or bfloat16 on a CPU, got 'float16'")
        dtype = getattr(torch, self.precision)
        return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
