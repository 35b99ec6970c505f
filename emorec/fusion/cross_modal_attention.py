"""Attention between the frames of two modalities."""

from typing import cast

import torch
from torch import Tensor, nn

from emorec.annotations import PositiveCount, Share
from emorec.batch import FusionOutput
from emorec.dropout import Dropout
from emorec.errors import UserError
from emorec.fusion.fusion import Fusion
from emorec.fusion.pooling import Pooling
from emorec.layers import AttentionLayer, perceptron, positions


class CrossModalAttention(Fusion):
    """Each modality's frames attend to those of each other modality, and then to what they gathered.

    Tsai et al. 2019, "Multimodal transformer for unaligned multimodal language sequences" (MulT), arXiv 1906.00295.
    Its last states are replaced by a pooling over time, since with padding the last frame is none of the utterance. A
    missing modality adds nothing to the others. A modality alone attends to itself.

    Args:
        width: of the frames, a multiple of `heads`.
        kernel: odd number of frames that the convolution to `width` sees.
        depth: number of layers between two modalities, and of the layers after them.
        heads: of each layer.
        dropout: in the layers, and before and after the last one.
    """

    def __init__(
        self,
        *,
        dims: dict[str, int],
        hidden: int,
        pooling: Pooling = "mean",
        width: PositiveCount = 40,
        kernel: PositiveCount = 1,
        depth: PositiveCount = 2,
        heads: PositiveCount = 5,
        dropout: Share = 0.0,
    ) -> None:
        others = max(1, len(dims) - 1)
        super().__init__(dims=dims, hidden=hidden, pooling=pooling, width=hidden)
        if width % heads:
            raise UserError(f"fusion.heads: expected a divisor of fusion.width={width}, got {heads}")
        if kernel % 2 == 0:
            raise UserError(f"fusion.kernel: expected an odd number, got {kernel}")
        self.sources = {name: [other for other in dims if other != name] or [name] for name in dims}
        self.convolutions = nn.ModuleDict(
            {modality: nn.Conv1d(dim, width, kernel, padding=kernel // 2, bias=False) for modality, dim in dims.items()}
        )
        self.cross = nn.ModuleDict(
            {
                f"{name}_from_{source}": nn.ModuleList(
                    AttentionLayer(width, heads, dropout, crosses=True) for _ in range(depth)
                )
                for name, sources in self.sources.items()
                for source in sources
            }
        )
        self.own = nn.ModuleDict(
            {name: nn.ModuleList(AttentionLayer(width * others, heads, dropout) for _ in range(depth)) for name in dims}
        )
        self.outputs = nn.ModuleDict({name: nn.Linear(width * others, hidden) for name in dims})
        self.layer = nn.Sequential(perceptron(hidden * len(dims), hidden, dropout), Dropout(dropout))

    def exchange(self, features: dict[str, Tensor], mask: dict[str, Tensor]) -> dict[str, Tensor]:
        frames = {}
        for name, values in features.items():
            known = (values * mask[name][:, :, None]).transpose(1, 2)  # (B, D, T)
            convolved = self.convolutions[name](known).transpose(1, 2)  # (B, T, width)
            frames[name] = convolved + positions(convolved.shape[1], convolved.shape[2], convolved.device)
        return {name: self._informed(name, frames, mask) for name in features}

    def _informed(self, name: str, frames: dict[str, Tensor], mask: dict[str, Tensor]) -> Tensor:
        """(B, T, H), a modality's frames with what they found in each other modality."""
        found = []
        for source in self.sources[name]:
            values = frames[name]
            for layer in cast(nn.ModuleList, self.cross[f"{name}_from_{source}"]):
                values = layer(values, mask[source], frames[source])
            found.append(values)
        joined = torch.cat(found, dim=2)
        for layer in cast(nn.ModuleList, self.own[name]):
            joined = layer(joined, mask[name])
        informed: Tensor = self.outputs[name](joined)
        return informed

    def fuse(self, vectors: dict[str, Tensor], present: dict[str, Tensor]) -> FusionOutput:
        return FusionOutput(fused=self.layer(torch.cat(list(vectors.values()), dim=1)), vectors=vectors)
