"""The layers of pretrained networks, run one by one: from the input to a layer, and from a layer upwards.

The networks of transformers only run as a whole. Here each kind says how it embeds its input, where its layers lie and
what follows them, so that the lower layers can be computed once and the upper ones trained.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from emorec.errors import UserError
from emorec.layers import counted, is_exported

OUTPUT = -1  # the number of the layer that is the network's output
Embed = Callable[[Any, Tensor, Tensor], Tensor]  # (network, input (N, …), mask (N, T)) -> hidden states (N, T, D)


@dataclass(frozen=True)
class Kind:
    """One kind of network."""

    embed: Embed  # what comes before the first layer
    layers: str  # path of the list of layers in the network
    norm: str | None = None  # path of the normalisation after the last layer; `None` where there is none
    masked: bool = True  # whether there is padding, which the layers must not attend to
    takes_mask: bool = True  # whether a layer takes a mask at all


def _embed_tokens(network: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    """Token ids (N, T) to (N, T, D)."""
    hidden: Tensor = network.embeddings(input_ids=tokens)
    return network.embeddings_project(hidden) if hasattr(network, "embeddings_project") else hidden


def _embed_waveform(network: Any, waveform: Tensor, mask: Tensor) -> Tensor:
    """Waveforms (N, S) to frames (N, T, D): convolutions, in training SpecAugment, and the positional convolution."""
    features = network.feature_extractor(waveform).transpose(1, 2)  # (N, T, C)
    projected = network.feature_projection(features)
    hidden = projected[0] if isinstance(projected, tuple) else projected
    hidden = _spec_augmented(network, hidden, mask) * mask[:, :, None]
    encoder = network.encoder
    hidden = hidden + encoder.pos_conv_embed(hidden)
    if not getattr(network.config, "do_stable_layer_norm", False):
        hidden = encoder.layer_norm(hidden)
    result: Tensor = encoder.dropout(hidden)
    return result


def _spec_augmented(network: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    """Masks of time and features as the network's config asks for, in training only; none longer than a clip."""
    config = network.config
    if not network.training or not getattr(config, "apply_spec_augment", False):
        return hidden
    shortest, stated = int(mask.sum(1).min()), (config.mask_time_length, config.mask_time_prob)
    config.mask_time_length = min(config.mask_time_length, shortest - 1)
    if config.mask_time_length < 1:
        config.mask_time_prob = 0.0
    try:
        masked: Tensor = network._mask_hidden_states(hidden.clone(), attention_mask=mask)
    finally:
        config.mask_time_length, config.mask_time_prob = stated
    return masked


def _embed_log_mel(network: Any, bands: Tensor, mask: Tensor) -> Tensor:
    """Whisper's log mel bands (N, bands, 2 T) to frames (N, T, D)."""
    hidden = nn.functional.gelu(network.conv1(bands))
    hidden = nn.functional.gelu(network.conv2(hidden)).transpose(1, 2)  # (N, T, D)
    positions = counted(hidden.shape[1], hidden.device)
    hidden = hidden + network.embed_positions(positions)
    return nn.functional.dropout(hidden, p=network.dropout, training=network.training)


def _embed_pixels(network: Any, pixels: Tensor, mask: Tensor) -> Tensor:
    """Pictures (N, 3, S, S), or clips (N, F, 3, S, S), to (N, tokens, D)."""
    hidden: Tensor = network.embeddings(pixels)
    return network.pre_layrnorm(hidden) if hasattr(network, "pre_layrnorm") else hidden  # CLIP's, spelled so


def _embed_masked_clips(network: Any, pixels: Tensor, mask: Tensor) -> Tensor:
    """Clips (N, F, 3, S, S) to (N, tokens, D), none of them masked."""
    hidden: Tensor = network.embeddings(pixels, None)
    return hidden


_BERT = Kind(_embed_tokens, "encoder.layer")
_WAVEFORM = Kind(_embed_waveform, "encoder.layers")
_STABLE = Kind(_embed_waveform, "encoder.layers", norm="encoder.layer_norm")  # normalises after the layers
# model_type of a config.json -> its kind
KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), _BERT),
    **dict.fromkeys(("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio"), _WAVEFORM),
    "whisper": Kind(_embed_log_mel, "layers", norm="layer_norm"),
    "vit": Kind(_embed_pixels, "layers", norm="layernorm", masked=False),
    **dict.fromkeys(("clip", "clip_vision_model"), Kind(_embed_pixels, "encoder.layers", masked=False)),
    "videomae": Kind(_embed_masked_clips, "encoder.layer", norm="layernorm", masked=False, takes_mask=False),
    "timesformer": Kind(_embed_pixels, "encoder.layer", norm="layernorm", masked=False, takes_mask=False),
    "vivit": Kind(_embed_pixels, "layers", norm="layernorm", masked=False),
}


def kind_of(network: Any, where: str) -> Kind:
    """How the layers of a network are run.

    Raises:
        UserError: emorec does not know how; `where` is the key of its name.
    """
    name = network.config.model_type
    if name not in KINDS:
        raise UserError(f"expected {where} of a kind that can be trained, {sorted(KINDS)}, got {name!r}")
    is_stable = KINDS[name] is _WAVEFORM and getattr(network.config, "do_stable_layer_norm", False)
    return _STABLE if is_stable else KINDS[name]


class LayerStack(nn.Module):
    """The layers of a network from `first` on, up to the highest one whose states are asked for.

    The n-th layer's states are those after it; 0 are the embeddings, and -1 is the network's output, after its last
    normalisation. Parts that are not needed are dropped; those that are kept have their own names in the network.

    Args:
        network: a network of transformers; parts of it are removed.
        kind: of the network.
        first: how many layers are left out at the bottom; with 0 the network's input is embedded here.
        wanted: the layers whose states are returned, side by side; none below `first`.
        checkpointing: whether activations are computed again in the backward pass, to save memory.
    """

    def __init__(self, network: Any, kind: Kind, *, first: int, wanted: Sequence[int], checkpointing: bool) -> None:
        super().__init__()
        self.network, self.kind, self.first, self.wanted = network, kind, first, tuple(wanted)
        self.checkpointing = checkpointing
        layers = network.get_submodule(kind.layers)
        self.total = len(layers)  # of the whole network
        self.top = self.total if OUTPUT in self.wanted else max(self.wanted)
        self.norm_path = kind.norm if kind.norm and OUTPUT in self.wanted else None
        # WavLM's first layer holds the embedding of relative positions, which all layers share
        self.is_relative = network.config.model_type == "wavlm"
        self.positions = layers[0].attention if self.is_relative and first else None
        for number in (*range(first), *range(self.top, self.total)):
            layers[number] = nn.Identity()
        kept = [kind.layers, self.norm_path or kind.layers, "post_layernorm"] if first else [""]
        _keep_only(network, kept)
        if kind.norm and self.norm_path is None and _submodule(network, kind.norm) is not None:
            network.set_submodule(kind.norm, nn.Identity())  # no output is asked for
        if getattr(network, "pooler", None) is not None:
            network.pooler = None  # its output is not used

    @property
    def layers(self) -> dict[int, nn.Module]:
        """{number of layers below it: layer} of those that are run."""
        layers = self.network.get_submodule(self.kind.layers)
        return {number: layers[number] for number in range(self.first, self.top)}

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """The states (N, T, L · D) of the L wanted layers.

        Args:
            values: the network's input, or states (N, T, D) where layers are left out.
            mask: (N, T) true where there is data.
        """
        hidden = self.kind.embed(self.network, values, mask) if self.first == 0 else values
        states = {self.first: hidden}
        attended = (self._attention_mask(hidden, mask),) if self.kind.takes_mask else ()
        bias = {"position_bias": self._relative_bias(hidden)} if self.is_relative else {}
        for number, layer in self.layers.items():
            if self.checkpointing and self.training:
                output = checkpoint(partial(layer, **bias), hidden, *attended, use_reentrant=False)
            else:
                output = layer(hidden, *attended, **bias)
            hidden = output[0] if isinstance(output, tuple) else output
            states[number + 1] = hidden
        if self.norm_path and (norm := _submodule(self.network, self.norm_path)) is not None:
            hidden = norm(hidden)
        states[OUTPUT] = hidden
        chosen = [states[number] for number in self.wanted]
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=-1)

    def _attention_mask(self, hidden: Tensor, mask: Tensor) -> Tensor | None:
        """What the layers take: nothing where all frames are data, else a mask of the form that they expect."""
        if not self.kind.masked or (not is_exported() and bool(mask.all())):
            return None
        if self.is_relative:
            return mask
        from transformers.masking_utils import create_bidirectional_mask

        attended: Tensor | None = create_bidirectional_mask(self.network.config, hidden, mask)
        return attended

    def _relative_bias(self, hidden: Tensor) -> Tensor:
        """WavLM's bias (N · heads, T, T) of relative positions."""
        attention: Any = self.positions or self.layers[0].attention
        bias: Tensor = attention.compute_bias(hidden.shape[1], hidden.shape[1])  # (heads, T, T)
        return bias.repeat(hidden.shape[0], 1, 1)


def _keep_only(module: nn.Module, paths: Sequence[str]) -> None:
    """Replaces the parts of a module that are on none of the paths, by modules without weights."""
    if "" in paths:
        return
    for name, child in list(module.named_children()):
        below = [path.partition(".")[2] for path in paths if path.partition(".")[0] == name]
        if below:
            _keep_only(child, below)
        else:
            setattr(module, name, nn.Identity())


def _submodule(network: nn.Module, path: str) -> nn.Module | None:
    """The module at a path; `None` where the network was made without it."""
    *parents, last = path.split(".")
    return getattr(network.get_submodule(".".join(parents)), last, None)
