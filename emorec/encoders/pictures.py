"""Input and output of pretrained networks of pictures and of clips: pixel values in, one vector a time step out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emorec.errors import UserError


@dataclass(frozen=True)
class PictureNetwork:
    """How one kind of network reads frames and orders its output."""

    factory: str = "AutoModel"  # the class of transformers that loads it
    clip: bool = False  # whether it reads all frames of an utterance together
    tokens: bool = True  # whether it returns a vector for each patch; otherwise one for the picture
    patches_first: bool = False  # whether the tokens of a clip are ordered by patch, then by time

    def steps(self, config: Any) -> int:
        """The number of time steps of a clip's tokens."""
        tubelet = getattr(config, "tubelet_size", 1)  # frames of one token; ViViT's has height and width as well
        return int(config.num_frames // (tubelet if isinstance(tubelet, int) else tubelet[0]))


# model_type of a config.json -> how it is read
NETWORKS: Mapping[str, PictureNetwork] = {
    # ViT (Dosovitskiy et al. 2021, arXiv 2010.11929)
    "vit": PictureNetwork(),
    # CLIP (Radford et al. 2021, arXiv 2103.00020): only the tower for pictures is loaded
    "clip": PictureNetwork(factory="CLIPVisionModel"),
    "clip_vision_model": PictureNetwork(factory="CLIPVisionModel"),
    # EfficientNet (Tan & Le 2019, arXiv 1905.11946)
    "efficientnet": PictureNetwork(tokens=False),
    # VideoMAE (Tong et al. 2022, arXiv 2203.12602)
    "videomae": PictureNetwork(clip=True),
    # TimeSformer (Bertasius et al. 2021, arXiv 2102.05095)
    "timesformer": PictureNetwork(clip=True, patches_first=True),
    # ViViT (Arnab et al. 2021, arXiv 2103.15691)
    "vivit": PictureNetwork(clip=True),
}


def stated_size(processor: Mapping[str, Any], model: str) -> int:
    """The size in pixels of the square picture that a `preprocessor_config.json` describes.

    Raises:
        UserError: it describes no square.
    """
    cropped = "crop_size" in processor and processor.get("do_center_crop", True)
    stated = processor.get("crop_size" if cropped else "size")
    sides = set(stated.values()) if isinstance(stated, Mapping) else {stated}
    if len(sides) != 1 or not isinstance(side := next(iter(sides)), int):
        raise UserError(f"expected a square size in preprocessor_config.json of {model!r}, got {stated!r}")
    return side


def pixel_scaling(processor: Mapping[str, Any], model: str) -> tuple[Tensor, Tensor]:
    """The normalisation of a `preprocessor_config.json` for pixels from 0 to 255, as `pixels * factor + shift`.

    Both are (3, 1, 1).

    Raises:
        UserError: mean or deviation are missing.
    """
    factor, shift = torch.ones(3, 1, 1, dtype=torch.float64), torch.zeros(3, 1, 1, dtype=torch.float64)
    if processor.get("do_rescale", True):
        factor = factor * processor.get("rescale_factor", 1 / 255)
        if processor.get("offset") or processor.get("rescale_offset"):
            shift = shift - 1
    if not processor.get("do_normalize", True):
        return factor.float(), shift.float()
    missing = [name for name in ("image_mean", "image_std") if name not in processor]
    if missing:
        raise UserError(f"expected {missing} in preprocessor_config.json of {model!r}, got none")
    mean = torch.tensor(processor["image_mean"], dtype=torch.float64).view(-1, 1, 1)
    deviation = torch.tensor(processor["image_std"], dtype=torch.float64).view(-1, 1, 1)
    factor, shift = factor / deviation, (shift - mean) / deviation
    if processor.get("include_top"):  # EfficientNet's weights were trained on pixels divided twice
        factor, shift = factor / deviation, shift / deviation
    return factor.float(), shift.float()


def clip_steps(hidden: Tensor, steps: int, patches: int, *, patches_first: bool) -> Tensor:
    """Averages the patches of each of T `steps` of a clip's tokens (B, S, D), which gives (B, T, D).

    The last T · `patches` tokens are the patches: ordered by patch, then by time (`patches_first`), or by time, then by
    patch.
    """
    tokens = hidden[:, -steps * patches :]  # (B, T · P, D), or (B, P · T, D)
    if patches_first:
        return tokens.reshape(hidden.shape[0], patches, steps, -1).mean(1)
    return tokens.reshape(hidden.shape[0], steps, patches, -1).mean(2)
