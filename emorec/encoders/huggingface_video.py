"""Any model of pictures or of clips of the Hugging Face hub, or of a local folder."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from emorec.encoders.checkpoint import read_settings
from emorec.encoders.encoder import Inputs, StoredType, Training
from emorec.encoders.huggingface import HuggingFaceEncoder, Precision
from emorec.encoders.layers import LAST, Layer, chosen_states, needs_hidden_states
from emorec.encoders.pictures import NETWORKS, PictureNetwork, clip_steps, one_token, pixel_scaling, stated_size
from emorec.errors import UserError, choose
from emorec.media.source import Source
from emorec.media.video import Frames, VideoSettings, read_video

POOLINGS = {"none": False, "mean": True}  # name -> whether steps of time are averaged
TOKENS = ("cls", "mean")


class HuggingFaceVideo(HuggingFaceEncoder):
    """A pretrained encoder of frames, frozen: one vector a step of time (T, D), or their mean (1, D).

    ViT, CLIP and EfficientNet read each frame by itself, so that T is the number of frames; VideoMAE, ViViT and
    TimeSformer read the frames together, and T is the number of their steps in time.

    Args:
        model: the model's name on the hub, or a local folder made by `save_pretrained`.
        revision: branch, tag or commit on the hub; what it resolves to counts. Not used for a local folder.
        layer: a number, a list of numbers, or "all": -1 the network's output, 0 the embeddings, n the n-th layer.
            -1 has the network's last normalisation, where there is one, and the n-th layer has not.
        summary: the vector of a step: "cls" the class token (of CLIP's last layer normalised, as CLIP uses it), "mean"
            the mean over patches. Networks of clips and EfficientNet know the mean only.
        pooling: "mean" over time, or "none" for all steps.
        media: how pictures are read: fields of `VideoSettings`; `size`, and for clips `frames`, must be the model's.
        precision: what the forward pass computes in: "float32", "bfloat16", or "float16" (on a GPU).
        training: "frozen".
        dtype: how features are stored.
        views: augmented views of each utterance for training.
    """

    modality: ClassVar[str] = "video"
    version: ClassVar[int] = 1

    def __init__(
        self,
        *,
        model: str,
        revision: str = "main",
        layer: Layer = -1,
        summary: str = "mean",
        pooling: str = "mean",
        media: Mapping[str, Any] | None = None,
        precision: Precision = "float32",
        training: Training = "frozen",
        dtype: StoredType = "float32",
        views: int = 0,
    ) -> None:
        super().__init__(
            model=model,
            revision=revision,
            layer=layer,
            precision=precision,
            training=training,
            dtype=dtype,
            views=views,
        )
        self.media: VideoSettings = VideoSettings.of(media, "encoder.video.media")
        self.averaged = choose(POOLINGS, pooling, "encoder.video.pooling")
        if summary not in TOKENS:
            raise UserError(f"expected encoder.video.summary in {TOKENS}, got {summary!r}")
        self.pooling = pooling
        self.summary = summary
        self._network = PictureNetwork()

    @property
    def dim(self) -> int:
        self.load()
        config = self._backbone.config
        return int(config.hidden_size if self._network.tokens else config.hidden_dim)

    def settings(self) -> dict[str, Any]:
        checkpoint, revision = self._resolve()
        processor = {"summary": self.summary, "precision": self.precision}
        return {"checkpoint": checkpoint, "revision": revision, "pooling": self.pooling, "processor": processor}

    def load(self) -> None:
        if self._backbone is not None:
            return
        revision = self._resolve()[1]
        kind = read_settings(self.model, revision, "config.json").get("model_type", "")
        network = choose(NETWORKS, kind, f"the kind of encoder.video.model={self.model}")
        processor = read_settings(self.model, revision, "preprocessor_config.json")
        size = stated_size(processor, self.model)
        if size != self.media.size:
            raise UserError(f"expected encoder.video.media.size={size} for {self.model}, got {self.media.size}")
        if self.summary == "cls" and (network.clip or not network.tokens):
            raise UserError(f"expected encoder.video.summary=mean for {self.model} ({kind}), got 'cls'")
        factor, shift = pixel_scaling(processor, self.model)
        import transformers

        backbone = self._frozen(getattr(transformers, network.factory))
        self._check(network, backbone)
        self.register_buffer("_factor", factor, persistent=False)
        self.register_buffer("_shift", shift, persistent=False)
        self._network = network
        self._backbone = backbone

    def _check(self, network: PictureNetwork, backbone: Any) -> None:
        """Raises a `UserError` where layers or frames are not the network's."""
        if network.tokens:
            self._require_layers(backbone)
        elif self.layers != (LAST,):
            raise UserError(f"expected encoder.video.layer=-1 for {self.model}, got {list(self.layers)}")
        if network.clip and backbone.config.num_frames != self.media.frames:
            raise UserError(
                f"expected encoder.video.media.frames={backbone.config.num_frames} for {self.model}, "
                f"got {self.media.frames}"
            )

    def read(self, source: Source) -> Frames:
        return read_video(source, self.media)

    def length(self, item: Frames) -> int:
        return len(item)

    def collate(self, items: Sequence[Frames]) -> Inputs:
        pixels = torch.from_numpy(np.stack(items))  # (B, F, S, S, 3)
        return {"pixels": pixels.permute(0, 1, 4, 2, 3)}  # (B, F, 3, S, S)

    def encode(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        pixels = inputs["pixels"].float() * self.get_buffer("_factor") + self.get_buffer("_shift")
        with self._autocast(pixels.device):
            states = self._clips(pixels) if self._network.clip else self._pictures(pixels)
        features = states.float()  # (B, T, L · D)
        if self.averaged:
            features = features.mean(1, keepdim=True)
        return features, torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)

    def _patches(self) -> int:
        """How many patches a frame has."""
        patch = getattr(self._backbone.config, "patch_size", None) or self._backbone.config.tubelet_size[-1]
        return int((self.media.size // patch) ** 2)

    def _clips(self, pixels: Tensor) -> Tensor:
        """(B, F, 3, S, S) to (B, T, L · D)."""
        output = self._backbone(pixels, output_hidden_states=needs_hidden_states(self.layers))
        hidden = chosen_states(output, self.layers)  # (B, tokens, L · D)
        steps = self._network.steps(self._backbone.config)
        return clip_steps(hidden, steps, self._patches(), patches_first=self._network.patches_first)

    def _pictures(self, pixels: Tensor) -> Tensor:
        """(B, F, 3, S, S) to (B, F, L · D)."""
        output = self._backbone(pixels.flatten(0, 1), output_hidden_states=needs_hidden_states(self.layers))
        if not self._network.tokens:
            vectors: Tensor = output.pooler_output  # (B · F, D)
        else:
            if self.summary == "cls" and self._network.factory == "CLIPVisionModel":
                output.last_hidden_state = self._backbone.post_layernorm(output.last_hidden_state)
            vectors = one_token(chosen_states(output, self.layers), self._patches(), self.summary)  # (B · F, L · D)
        return vectors.reshape(*pixels.shape[:2], -1)
