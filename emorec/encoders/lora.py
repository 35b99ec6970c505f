"""Low-rank adaptation (LoRA; Hu et al. 2021, arXiv 2106.09685) of pretrained encoders, by peft."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.errors import UserError

_ATTENTION_AND_FEED_FORWARD = ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense")
# model_type of a config.json -> names of the linear layers that are adapted, all of which get a gradient
TARGETS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), ("query", "key", "value")),
    **dict.fromkeys(
        ("wav2vec2", "hubert", "unispeech", "unispeech-sat", "data2vec-audio"), _ATTENTION_AND_FEED_FORWARD
    ),
    # its attention works on raw weights, past adapters: transformers 5.23
    "wavlm": ("intermediate_dense", "output_dense"),
    "whisper": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "vit": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "vivit": ("q_proj", "k_proj", "v_proj", "o_proj"),
    **dict.fromkeys(("clip", "clip_vision_model"), ("q_proj", "k_proj", "v_proj", "out_proj")),
    "videomae": ("query", "key", "value"),
    "timesformer": ("qkv",),
}


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """How adapters are made.

    Attributes:
        r: their rank.
        alpha: their output is scaled by alpha / r.
        dropout: of their input.
        targets: names of the linear layers that are adapted; `None` for those of the kind of network.
    """

    r: PositiveCount = 8
    alpha: PositiveCount = 16
    dropout: Share = 0.05
    targets: list[str] | None = None


def add_adapters(
    network: nn.Module, settings: LoraSettings, *, kind: str, where: str, model: str, revision: str | None
) -> Any:
    """Freezes a network and adds adapters, the only weights that train; returns peft's `LoraConfig` of them.

    Args:
        kind: the network's model_type.
        where: the key of the settings, for errors.
        model: the name or folder of the network's checkpoint.
        revision: of the checkpoint on the hub.

    Raises:
        UserError: no target is known for this kind, or none of the targets is in the network.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = settings.targets or list(TARGETS.get(kind, ()))
    if not targets:
        raise UserError(
            f"expected {where}.targets for a network of the kind {kind!r}, got none; known: {sorted(TARGETS)}"
        )
    linear = {name for name, part in network.named_modules() if isinstance(part, nn.Linear)}
    absent = [target for target in targets if not any(name == target or name.endswith(f".{target}") for name in linear)]
    if absent:
        last = sorted({name.rpartition(".")[2] for name in linear})
        raise UserError(f"expected {where}.targets among the linear layers {last}, got {absent}")
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        base_model_name_or_path=model,
        revision=revision,
    )
    network.requires_grad_(False)
    inject_adapter_in_model(config, network)
    return config


def adapter(network: nn.Module, config: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of `adapter_config.json` and of `adapter_model.safetensors` of a network with adapters, as peft saves
    them: `PeftModel.from_pretrained` adds them to the network of the checkpoint."""
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(network, state_dict=dict(network.state_dict()), adapter_name="default")
    prefix = "base_model.model."
    named = {f"{prefix}{name.removeprefix(prefix)}": value.cpu().contiguous() for name, value in weights.items()}
    # whole names, so that peft adapts no layer below a cut; it shortens those that it is given
    targets = sorted({name.removeprefix(prefix).partition(".lora_")[0] for name in named})
    return {**config.to_dict(), "target_modules": targets, "inference_mode": True}, named
