"""What pretrained encoders of text, audio and video share: checkpoint, layers, precision."""

import copy
from abc import abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, ClassVar, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emorec.annotations import Count, Pattern
from emorec.encoders.below_cut import BelowCut
from emorec.encoders.checkpoint import LOCAL, checkpoint_files, load_pretrained, read_settings, resolve_revision
from emorec.encoders.encoder import Encoder, Training
from emorec.encoders.layer_stack import LayerStack, kind_of
from emorec.encoders.lora import LoraSettings, add_adapters
from emorec.encoders.pretrained_part import PretrainedPart
from emorec.encoders.trained import TrainedPart
from emorec.errors import UserError
from emorec.media.source import Source

Name = Annotated[str, Pattern(".+", "a name")]
FULL_RATE = 0.02  # of a pretrained encoder that trains in full, as a factor of the rate of new weights
HALF = ("float16", "bfloat16")  # types in which a checkpoint may be stored
LAST = -1  # the number of the layer that is the network's output

# Keys of the number of layers in a config.json. Whisper's has two, and that of its encoder counts.
COUNTS = ("encoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(kw_only=True, eq=False)
class HuggingFaceEncoder(Encoder):
    """A pretrained network of the Hugging Face hub, or of a local folder: frozen, or trained above a cut.

    Args:
        model: the model's name on the hub, or a local folder made by `save_pretrained`.
        revision: branch, tag or commit on the hub; the commit it resolves to counts. Not used for a local folder.
        layer: a number, a list of numbers, or "all": -1 the network's output, 0 the embeddings, n the n-th layer.
            Where a last normalisation follows the layers, -1 includes it and the n-th does not. Where the encoder
            trains, "all" are those above `train_from`.
        pooling: "mean" over time, "mean_std" mean and standard deviation (2 D), or "none" for all frames.
        precision: what the frozen forward pass computes in (autocast): "float32", "bfloat16", or "float16" (on a GPU).
        train_from: how many layers stay frozen where the network trains: their states are computed once. With 0 all
            layers and the embeddings train, but not the convolutions of speech models.
        train_front: whether these convolutions train too.
        lora: how adapters are made, for `training=lora`.
        gradient_checkpointing: compute activations again in the backward pass, which takes longer and less memory.
    """

    trainable: ClassVar[tuple[Training, ...]] = ("frozen", "full", "lora")

    model: Name
    revision: Name = "main"
    layer: int | list[int] | Literal["all"] = -1
    pooling: str = "mean"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    train_from: Count = 0
    train_front: bool = False
    lora: LoraSettings = field(default_factory=LoraSettings)
    gradient_checkpointing: bool = False

    def __post_init__(self, training: Training) -> None:
        super().__post_init__(training)
        if isinstance(self.layer, list) and (not self.layer or len(set(self.layer)) < len(self.layer)):
            raise UserError(f"expected {self.where}.layer to be a list of different layers, got {self.layer!r}")
        if self.mode == "frozen" and self.train_from:
            raise UserError(f"expected {self.where}.train_from=0 with training=frozen, got {self.train_from}")
        if self.augmentation is not None and (self.mode == "frozen" or self.train_from):
            inputs = "features" if self.mode == "frozen" else f"the states of layer {self.train_from}"
            raise UserError(
                f"expected {self.where}.augmentation=null where {inputs} are stored, or training=full or lora with "
                f"train_from=0, got training={self.mode}"
            )
        if self.train_front and (self.mode == "lora" or self.train_from):
            below = "training=lora" if self.mode == "lora" else f"train_from={self.train_from}"
            raise UserError(f"expected {self.where}.train_front=false with {below}, got true: they do not train")
        if self.mode != "frozen" and self.views:
            raise UserError(f"expected {self.where}.views=0 with training={self.mode}, got {self.views}")
        self._backbone: Any = None
        self._loading = Lock()  # threads decode
        self._part_of_clips: PretrainedPart | None = None

    @property
    def dim(self) -> int:
        self.load()
        return self._pooled_width(int(self._backbone.config.hidden_size))

    def _pooled_width(self, width: int) -> int:
        """The width of pooled vectors, for that of a frame."""
        return 2 * width if self.pooling == "mean_std" else width

    @cached_property
    def layers(self) -> tuple[int, ...]:
        if isinstance(self.layer, int | list):
            return tuple(self.layer) if isinstance(self.layer, list) else (self.layer,)
        lowest = 0 if self.mode == "frozen" else self.train_from + 1
        return tuple(range(lowest, self.layer_count + 1))  # 0 are the embeddings

    @cached_property
    def layer_count(self) -> int:
        """The number of the network's layers, by its config.

        Raises:
            UserError: the config does not say it.
        """
        config = read_settings(self.model, self.resolved[1], "config.json")
        tower = config.get("vision_config") or config
        counts = [tower[name] for name in COUNTS if isinstance(tower.get(name), int)]
        if not counts:
            raise UserError(
                f"expected the number of layers in config.json of {self.model!r} for {self.where}.layer=all, got none "
                f"of {COUNTS}; list the layers instead: {self.where}.layer=[0,1,2]"
            )
        return int(counts[0])

    @cached_property
    def resolved(self) -> tuple[str, str]:
        """What identifies the checkpoint: ("local", digest of the folder) or (name on the hub, commit)."""
        return resolve_revision(self.model, self.revision, self.digests)

    def checkpoint_files(self) -> list[Path]:
        return checkpoint_files(self.model, self.resolved[1])

    def stored(self) -> Encoder:
        return self if self.mode == "frozen" else self._below

    @cached_property
    def _below(self) -> Encoder:
        return BelowCut(self)

    def trained(self) -> TrainedPart | None:
        if self.mode == "frozen":
            return None
        low = [layer for layer in self.layers if LAST < layer <= self.train_from]
        if low:
            raise UserError(
                f"expected {self.where}.layer above train_from={self.train_from}, got {low}: these layers do not train"
            )
        part = self.part(first=self.train_from, wanted=self.layers)
        if self.mode == "full":
            part.rate = FULL_RATE
        else:
            checkpoint, revision = self.resolved
            part.lora = add_adapters(
                part.stack.network,
                self.lora,
                kind=part.stack.network.config.model_type,
                where=f"{self.where}.lora",
                model=self.model,
                revision=None if checkpoint == LOCAL else revision,
            )
        return part

    def as_part(self) -> TrainedPart | None:
        self.check_float32()
        self.load()  # this encoder keeps its own weights
        return self.part(first=0, wanted=self.layers).requires_grad_(False).eval()

    def check_float32(self) -> None:
        """Raises a `UserError` where features are computed in another precision, which a network would not repeat."""
        if self.precision != "float32":
            raise UserError(f"its features were computed with {self.where}.precision={self.precision}, not float32")

    def part(self, *, first: int, wanted: tuple[int, ...], raw: bool = False, loaded: Any = None) -> PretrainedPart:
        """The layers of a network from `first` on, up to the highest of those that are wanted.

        Args:
            raw: whether all states of a layer are returned, for the layers above, instead of features.
            loaded: what `_load_network` has loaded, whose other layers are removed; by default it is loaded anew.

        Raises:
            UserError: the network has no such layers, or is of a kind that cannot be trained.
        """
        loaded = (loaded or self._load_network()).requires_grad_(True)
        if self._backbone is None:
            self._backbone = _without_weights(loaded)
        network = getattr(loaded, "backbone", loaded)
        kind = kind_of(network, f"{self.where}.model={self.model}")
        total = len(network.get_submodule(kind.layers))
        if first >= total:
            raise self._misfit(f"train_from from 0 to {total - 1}", first)
        stack = LayerStack(network, kind, first=first, wanted=wanted, checkpointing=self.gradient_checkpointing)
        return self._part(loaded, stack, raw=raw, pooling="none" if raw else self.pooling)

    @abstractmethod
    def _part(self, loaded: Any, stack: LayerStack, **options: Any) -> PretrainedPart:
        """The trained part on a stack of layers of what `_load_network` has loaded."""

    @property
    @abstractmethod
    def decoded_dtype(self) -> Any:
        """The type in which decoded inputs are stored."""

    @property
    @abstractmethod
    def decoded_width(self) -> int:
        """I of decoded inputs (T, I)."""

    @abstractmethod
    def decoded_settings(self) -> dict[str, Any]:
        """What identifies decoded inputs beside the media settings; see `settings`."""

    @abstractmethod
    def decoded(self, source: Source) -> NDArray[Any]:
        """The decoded input (T, I) of a source; raises as `read` does."""

    @property
    @abstractmethod
    def processor(self) -> dict[str, Any]:
        """What identifies the preparation of the network's input."""

    def settings(self) -> dict[str, Any]:
        checkpoint, revision = self.resolved
        processor = {**self.processor, "precision": self.precision}
        config = read_settings(self.model, revision, "config.json")
        if (config.get("dtype") or config.get("torch_dtype")) in HALF:  # earlier features were computed in it
            processor["weights"] = "float32"
        return {"checkpoint": checkpoint, "revision": revision, "pooling": self.pooling, "processor": processor}

    def load(self) -> None:
        with self._loading:
            if self._backbone is None:
                loaded = self._load_network()
                self._backbone = loaded if self.mode == "frozen" else _without_weights(loaded)

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
        """A context for the forward pass on a device; raises as `autocast` does."""
        return self.autocast(device, self.precision)

    def autocast(self, device: torch.device, precision: str) -> AbstractContextManager[Any]:
        """A context for a forward pass on a device in a precision.

        Raises:
            UserError: the device cannot compute in the precision.
        """
        if precision == "float16" and device.type == "cpu":
            raise UserError(f"expected {self.where}.precision=float32 or bfloat16 on a CPU, got 'float16'")
        dtype = getattr(torch, precision)
        return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def _without_weights(loaded: Any) -> Any:
    """A copy of a network with the shapes of its weights only, for decoding: the weights are in the parts."""
    weights = {id(item): nn.Parameter(item.to("meta"), requires_grad=False) for item in loaded.parameters()}
    return copy.deepcopy(loaded, weights)
