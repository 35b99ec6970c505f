"""What pretrained encoders of text, audio and video share: checkpoint, layers, precision."""

from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import torch

from emorec.encoders.checkpoint import load_pretrained, read_settings, resolve_revision
from emorec.encoders.encoder import Encoder, StoredType, Training
from emorec.encoders.layers import Layer, all_layers, checked_layers, require_layers
from emorec.errors import UserError

Precision = Literal["float32", "bfloat16", "float16"]


class HuggingFaceEncoder(Encoder):
    """A pretrained network of the Hugging Face hub, or of a local folder, frozen.

    Args:
        model: the model's name on the hub, or a local folder made by `save_pretrained`.
        revision: branch, tag or commit on the hub; what it resolves to counts. Not used for a local folder.
        layer: a number, a list of numbers, or "all": -1 the network's output, 0 the embeddings, n the n-th layer.
        precision: what the forward pass computes in (autocast); the output is float32 whatever it is.
        training: "frozen".
        dtype: how features are stored.
        views: augmented views of each utterance for training.
    """

    def __init__(
        self,
        *,
        model: str,
        revision: str,
        layer: Layer,
        precision: Precision = "float32",
        training: Training,
        dtype: StoredType,
        views: int = 0,
    ) -> None:
        super().__init__(training=training, dtype=dtype, views=views)
        self.where = f"encoder.{self.modality}"
        if precision not in get_args(Precision):
            raise UserError(f"expected {self.where}.precision in {get_args(Precision)}, got {precision!r}")
        for name, value in (("model", model), ("revision", revision)):
            if not isinstance(value, str) or not value:
                raise UserError(f"expected {self.where}.{name} to be a name, got {value!r}")
        self.model = model
        self.wanted_revision = revision
        self.precision = precision
        self._layers = checked_layers(layer, f"{self.where}.layer")
        self._resolved: tuple[str, str] | None = None
        self._backbone: Any = None

    @property
    def dim(self) -> int:
        self.load()
        return int(self._backbone.config.hidden_size)

    @property
    def layers(self) -> tuple[int, ...]:
        if self._layers is None:
            config = read_settings(self.model, self._resolve()[1], "config.json")
            self._layers = all_layers(config, self.model, f"{self.where}.layer")
        return self._layers

    def _resolve(self) -> tuple[str, str]:
        if self._resolved is None:
            self._resolved = resolve_revision(self.model, self.wanted_revision)
        return self._resolved

    def _pretrained(self, factory: Any) -> Any:
        """What `factory` (a class of transformers) makes of the checkpoint."""
        return load_pretrained(factory, self.model, self._resolve()[1])

    def _frozen(self, factory: Any) -> Any:
        """The network, in evaluation mode and without gradients."""
        return self._pretrained(factory).eval().requires_grad_(False)

    def _require_layers(self, backbone: Any) -> None:
        require_layers(self.layers, backbone.config.num_hidden_layers, self.model, f"{self.where}.layer")

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The forward pass's precision on a device.

        Raises:
            UserError: the device cannot compute in it.
        """
        if self.precision == "float16" and device.type == "cpu":
            raise UserError(f"expected {self.where}.precision=float32 or bfloat16 on a CPU, got 'float16'")
        wanted = getattr(torch, self.precision)
        return torch.autocast(device.type, dtype=wanted, enabled=wanted != torch.float32)
