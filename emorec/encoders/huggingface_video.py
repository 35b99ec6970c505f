"""Any model of pictures or of clips of the Hugging Face hub, or of a local folder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emorec.augmentation.frames import FrameAugmentation
from emorec.augmentation.streams import Augment
from emorec.encoders.below_cut import as_rows
from emorec.encoders.checkpoint import read_settings
from emorec.encoders.encoder import Inputs
from emorec.encoders.huggingface import FULL_RATE, LAST, HuggingFaceEncoder
from emorec.encoders.layer_stack import LayerStack
from emorec.encoders.picture_part import ConvolutionPart, PicturePart
from emorec.encoders.pictures import NETWORKS, PictureNetwork, clip_steps, pixel_scaling, stated_size
from emorec.encoders.trained import TrainedPart, pool_layers
from emorec.errors import UserError, choose
from emorec.media.faces import FaceMisses
from emorec.media.resizing import Frames
from emorec.media.source import Source
from emorec.media.video import VideoSettings, read_video


@dataclass(kw_only=True, eq=False)
class HuggingFaceVideo(HuggingFaceEncoder):
    """A pretrained encoder of frames: one vector a time step (T, D), their mean (1, D), or
    with their standard deviation (1, 2 D).

    ViT, CLIP and EfficientNet read each frame separately, and T is the number of frames. VideoMAE, ViViT and
    TimeSformer read the frames together, and T is the number of their time steps.

    Args:
        summary: the vector of a time step: "cls" the class token (of CLIP's last layer normalised, as CLIP uses it),
            "mean" the mean over patches. EfficientNet and networks that read clips have the mean only.
        media: how pictures are read; `size`, and for clips `frames`, must be those of the model.
        augmentation: of the frames, where all layers train.
    """

    modality: ClassVar[str] = "video"
    version: ClassVar[int] = 1

    media: VideoSettings = field(default_factory=VideoSettings)
    pooling: Literal["none", "mean", "mean_std"] = "mean"
    summary: Literal["cls", "mean"] = "mean"
    augmentation: FrameAugmentation | None = None
    face_misses: FaceMisses = field(default_factory=FaceMisses, init=False, repr=False)

    @property
    def dim(self) -> int:
        self.load()
        config = self._backbone.config
        return self._pooled_width(int(config.hidden_size if self._kind.tokens else config.hidden_dim))

    @property
    def processor(self) -> dict[str, Any]:
        return {"summary": self.summary}

    def _load_network(self) -> Any:
        revision, network = self.resolved[1], self._kind
        processor = read_settings(self.model, revision, "preprocessor_config.json")
        size = stated_size(processor, self.model)
        if size != self.media.size:
            raise self._misfit(f"media.size={size}", self.media.size)
        if self.summary == "cls" and (network.clip or not network.tokens):
            raise UserError(f"expected encoder.video.summary=mean for {self.model}, got 'cls'")
        factor, shift = pixel_scaling(processor, self.model)
        import transformers

        backbone = self._frozen(getattr(transformers, network.factory))
        if network.tokens:
            self._require_layers(backbone)
        elif self.layers != (LAST,):
            raise self._misfit("layer=-1", list(self.layers))
        frames = backbone.config.num_frames if network.clip else self.media.frames
        if frames != self.media.frames:
            raise self._misfit(f"media.frames={frames}", self.media.frames)
        self.register_buffer("_factor", factor, persistent=False)
        self.register_buffer("_shift", shift, persistent=False)
        return backbone

    def trained(self) -> TrainedPart | None:
        if self.mode == "frozen" or self._kind.tokens:
            return super().trained()
        if self.mode == "lora" or self.train_from:
            raise self._misfit(
                "training=full and train_from=0", f"{self.mode} and {self.train_from}: it has no layers to cut"
            )
        part = self._convolution_part()
        part.rate = FULL_RATE
        return part

    def as_part(self) -> TrainedPart | None:
        if self._kind.tokens:
            return super().as_part()
        self.check_float32()
        return self._convolution_part().requires_grad_(False).eval()

    def _convolution_part(self) -> ConvolutionPart:
        return ConvolutionPart(**self._convolution_options())

    def _convolution_options(self) -> dict[str, Any]:
        """The arguments of a `ConvolutionPart`, with the network's weights."""
        network = self._load_network().requires_grad_(True)
        buffers = {"factor": self.get_buffer("_factor"), "shift": self.get_buffer("_shift")}
        return {"network": network, "size": self.media.size, "pooling": self.pooling, **buffers}

    def augment(self) -> Augment | None:
        return None if self.augmentation is None else self.augmentation.vary

    @cached_property
    def _kind(self) -> PictureNetwork:
        """How the network reads frames, by its config."""
        kind = read_settings(self.model, self.resolved[1], "config.json").get("model_type", "")
        return choose(NETWORKS, kind, f"the kind of encoder.video.model={self.model}")

    def _part(self, loaded: Any, stack: LayerStack, **options: Any) -> PicturePart:
        config, size = stack.network.config, self.media.size
        steps = self._kind.steps(config) if self._kind.clip else 1
        norm = getattr(stack.network, "post_layernorm", None)

        def summarised(states: Tensor) -> Tensor:
            if self._kind.clip:
                return clip_steps(states, steps, self._patches(config), patches_first=self._kind.patches_first)
            if self.summary == "mean":
                return states[:, -self._patches(config) :].mean(1)
            tokens = states[:, 0].chunk(len(self.layers), dim=-1)  # L of (N, D)
            pairs = zip(self.layers, tokens, strict=True)
            return torch.cat(
                [norm(token) if norm is not None and layer == LAST else token for layer, token in pairs], -1
            )

        patches = self._patches(config)
        return PicturePart(
            stack=stack,
            clip=self._kind.clip,
            size=size,
            tokens=patches * steps + (0 if config.model_type == "videomae" else 1),
            factor=self.get_buffer("_factor"),
            shift=self.get_buffer("_shift"),
            steps=summarised,
            **options,
        )

    decoded_dtype = "uint8"

    @property
    def decoded_width(self) -> int:
        return 3 * self.media.size**2

    def decoded_settings(self) -> dict[str, Any]:
        return {}

    def decoded(self, source: Source) -> NDArray[Any]:
        return as_rows(self.read(source), np.uint8)

    def read(self, source: Source) -> Frames:
        return read_video(source, self.media, missed=self.face_misses)

    def collate(self, items: Sequence[Frames]) -> Inputs:
        pixels = torch.from_numpy(np.stack(items))  # (B, F, S, S, 3)
        return {"pixels": pixels.permute(0, 1, 4, 2, 3)}  # (B, F, 3, S, S)

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        pixels = inputs["pixels"].float() * self.get_buffer("_factor") + self.get_buffer("_shift")
        with self._autocast(pixels.device):
            states = self._clips(pixels) if self._kind.clip else self._pictures(pixels)
        features = states.float()  # (B, T, L · D)
        whole = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        return pool_layers(features, whole, self.pooling, len(self.layers))

    def _patches(self, config: Any) -> int:
        """The number of patches of a frame, of a network with this config."""
        patch = getattr(config, "patch_size", None) or config.tubelet_size[-1]
        return int((self.media.size // patch) ** 2)

    def _clips(self, pixels: Tensor) -> Tensor:
        """(B, F, 3, S, S) to (B, T, L · D)."""
        hidden = self._states(self._output(pixels))  # (B, tokens, L · D)
        steps = self._kind.steps(self._backbone.config)
        return clip_steps(hidden, steps, self._patches(self._backbone.config), patches_first=self._kind.patches_first)

    def _pictures(self, pixels: Tensor) -> Tensor:
        """(B, F, 3, S, S) to (B, F, L · D)."""
        output = self._output(pixels.flatten(0, 1))
        if not self._kind.tokens:
            vectors: Tensor = output.pooler_output  # (B · F, D)
        else:
            if self.summary == "cls" and self._kind.factory == "CLIPVisionModel":
                output.last_hidden_state = self._backbone.post_layernorm(output.last_hidden_state)
            hidden = self._states(output)  # (B · F, tokens, L · D): the class token, others, the patches
            vectors = (
                hidden[:, 0] if self.summary == "cls" else hidden[:, -self._patches(self._backbone.config) :].mean(1)
            )
        return vectors.reshape(*pixels.shape[:2], -1)
