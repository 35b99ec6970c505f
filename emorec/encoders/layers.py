"""Which hidden states of a pretrained network become features."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from emorec.errors import UserError

ALL = "all"
LAST = -1

Layer = int | Sequence[int] | Literal["all"]

# How a config.json may call the number of layers. Whisper's states two: that of its encoder comes first.
COUNTS = ("encoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")


def checked_layers(layer: Any, where: str) -> tuple[int, ...] | None:
    """The layers that a setting names: one, several, or `None` for all of them.

    Raises:
        UserError: the setting is neither a number, nor a list of different numbers, nor "all".
    """
    if layer == ALL:
        return None
    named = list(layer) if isinstance(layer, Sequence) and not isinstance(layer, str) else [layer]
    whole = all(isinstance(item, int) and not isinstance(item, bool) for item in named)
    if not named or not whole or len(set(named)) != len(named):
        raise UserError(
            f"expected {where} to be a layer's number, a list of different numbers, or {ALL!r}, got {layer!r}"
        )
    return tuple(named)


def all_layers(config: Mapping[str, Any], model: str, where: str) -> tuple[int, ...]:
    """Every layer of the network that a `config.json` describes, the embeddings (0) first.

    Raises:
        UserError: the config does not tell how many there are.
    """
    tower = config.get("vision_config") or config
    for name in COUNTS:
        if isinstance(tower.get(name), int):
            return tuple(range(tower[name] + 1))
    raise UserError(
        f"expected the number of layers in config.json of {model!r} for {where}={ALL}, found none of {COUNTS}; "
        f"list the layers instead: {where}=[0,1,2]"
    )


def require_layers(layers: Sequence[int], count: int, model: str, where: str) -> None:
    """Raises a `UserError` for layers that a network of `count` layers does not have."""
    lacking = [layer for layer in layers if not LAST <= layer <= count]
    if lacking:
        shown = lacking[0] if len(layers) == 1 else lacking
        raise UserError(f"expected {where} from -1 to {count} for {model}, got {shown}")


def needs_hidden_states(layers: Sequence[int]) -> bool:
    """Whether a network has to return more than its output."""
    return any(layer != LAST for layer in layers)


def chosen_states(output: Any, layers: Sequence[int]) -> Tensor:
    """The states of the chosen layers side by side.

    The last layer (-1) is the network's output. In networks that normalise once more behind their layers (wav2vec 2.0
    with `do_stable_layer_norm`, ViT) this is not what the N-th of N layers gives, which is layer N.

    Args:
        output: what a network of transformers returns: `last_hidden_state`, and `hidden_states` where needed.
        layers: L of them.

    Returns:
        (B, …, L · D)
    """
    states = [output.last_hidden_state if layer == LAST else output.hidden_states[layer] for layer in layers]
    return states[0] if len(states) == 1 else torch.cat(states, dim=-1)
