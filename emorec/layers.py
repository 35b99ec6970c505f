"""Layers that encoders, fusions, contexts and losses share."""

import math

import torch
from torch import Tensor, nn

from emorec.dropout import Dropout

SLOWEST = 10_000.0  # frames: the longest wavelength of a position is 2π of them


def perceptron(dim: int, hidden: int, dropout: float) -> nn.Sequential:
    """A linear layer from `dim` to `hidden` with GELU, and dropout before it."""
    return nn.Sequential(Dropout(dropout), nn.Linear(dim, hidden), nn.GELU())


def positions(count: int, width: int, device: torch.device) -> Tensor:
    """(count, width) sines and cosines of the positions (Vaswani et al. 2017, arXiv 1706.03762)."""
    exponents = torch.arange(0, width, 2, device=device) / width
    angles = counted(count, device)[:, None] * torch.exp(-math.log(SLOWEST) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def is_traced() -> bool:
    """Whether `torch.jit` traces the call."""
    return torch._C._get_tracing_state() is not None


def is_exported() -> bool:
    """Whether a graph is recorded, in which no step may depend on a value, or on a size that varies."""
    return is_traced() or torch.compiler.is_exporting()


def counted(count: int, device: torch.device) -> Tensor:
    """(count,) the numbers from 0 on. A graph that is traced takes the size of a range for fixed, of this one not."""
    if is_traced():
        return torch.ones(count, device=device).nonzero()[:, 0]
    return torch.arange(count, device=device)


def within(size: int, *, least: int | None = None, most: int | None = None) -> int:
    """A size that is raised to the least, or lowered to the most; where it is traced, so is that."""
    if isinstance(size, Tensor):
        return size.clamp(least, most)  # type: ignore[return-value]
    size = size if least is None else max(size, least)
    return size if most is None else min(size, most)


def at_least_float(values: Tensor) -> Tensor:
    """Values in float32, or in their own wider type."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def attend(attention: nn.MultiheadAttention, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """The output (B, T, width) of an attention with `batch_first` for queries (B, T, width), of keys (B, S, width) that
    are its values as well.

    Args:
        mask: (B, S), or (B, heads, T, S), true for what is looked at, of which there is something.
    """
    if is_exported():  # traced, the module of torch takes T for fixed
        return _attend_in_a_graph(attention, queries, keys, mask if mask.dim() == 4 else mask[:, None, None])
    if mask.dim() == 4:
        attended, _ = attention(queries, keys, keys, attn_mask=~mask.flatten(0, 1), need_weights=False)
    else:
        attended, _ = attention(queries, keys, keys, key_padding_mask=~mask, need_weights=False)
    result: Tensor = attended
    return result


def _attend_in_a_graph(attention: nn.MultiheadAttention, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """As `attend`, in evaluation; `mask`: (B, heads or 1, T or 1, S)."""
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    query, key, value = (
        nn.functional.linear(values, weight, bias).reshape(*values.shape[:2], attention.num_heads, -1).transpose(1, 2)
        for values, weight, bias in zip((queries, keys, keys), weights, biases, strict=True)
    )  # (B, heads, T or S, width / heads)
    attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    result: Tensor = attention.out_proj(attended.transpose(1, 2).flatten(2))
    return result


class AttentionLayer(nn.Module):
    """A layer of a transformer, normalised first (Xiong et al. 2020, arXiv 2002.04745), with GELU.

    Args:
        width: of the sequences.
        heads: of the attention; they share the width.
        dropout: of the attention, and of what is added to the sequence.
        crosses: whether the queries look at another sequence, which has a norm of its own.
    """

    def __init__(self, width: int, heads: int, dropout: float, *, crosses: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.query_norm = nn.LayerNorm(width)
        self.memory_norm = nn.LayerNorm(width) if crosses else None
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(2 * width, width),
            Dropout(dropout),
        )
        self.dropout = Dropout(dropout)

    def forward(self, sequence: Tensor, mask: Tensor, memory: Tensor | None = None) -> Tensor:
        """(B, T, width), the sequence (B, T, width) after it has looked at the memory, by default at itself.

        Args:
            mask: (B, S), true where there is data to look at; a row without any adds nothing. Or (B, heads, T, S), what
                each frame looks at, of which there is something.
            memory: (B, S, width).
        """
        queries = self.query_norm(sequence)
        if memory is None:
            keys = queries
        else:
            assert self.memory_norm is not None
            keys = self.memory_norm(memory)
        if mask.dim() == 4:
            attended = attend(self.attention, queries, keys, mask)
        else:
            known = mask.any(1, keepdim=True)  # (B, 1); a softmax over nothing would be NaN
            attended = attend(self.attention, queries, keys, mask | ~known)
            attended = attended.masked_fill(~known[:, :, None], 0)
        sequence = sequence + self.dropout(attended)
        result: Tensor = sequence + self.feed_forward(sequence)
        return result
