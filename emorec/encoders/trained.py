"""The part of an encoder that trains with the model: from what the feature store keeps to features."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from emorec.augmentation.spans import length_mask
from emorec.augmentation.streams import Augment
from emorec.layers import counted


def windows(length: int, longest: int) -> list[tuple[int, int]]:
    """The borders [(start, end)] of the fewest equal windows that are no longer than `longest`.

    They are equal because a short rest at the end would be encoded without context.
    """
    count = -(-length // longest)
    borders = [round(index * length / count) for index in range(count + 1)]
    return list(pairwise(borders))


def pool(frames: Tensor, mask: Tensor, pooling: str) -> tuple[Tensor, Tensor]:
    """Pools frames (B, T, D) over the true ones of `mask` (B, T); returns the result and its mask.

    "none" leaves all frames; "mean", "mean_std" (2 D: standard deviations follow), "cls" (the first frame) and "last"
    give one vector (B, 1, D).
    """
    if pooling == "none":
        return frames * mask[:, :, None], mask
    one = mask[:, :1]
    weights = mask[:, :, None].to(frames.dtype)
    counts = weights.sum(1, keepdim=True).clamp_min(1)  # (B, 1, 1)
    if pooling == "cls":
        return frames[:, :1] * one[:, :, None], one
    if pooling == "last":
        last = (mask.sum(1) - 1).clamp_min(0)  # (B,)
        return frames[counted(frames.shape[0], frames.device), last][:, None] * one[:, :, None], one
    mean = (frames * weights).sum(1, keepdim=True) / counts
    if pooling == "mean":
        return mean, one
    variance = ((frames - mean).square() * weights).sum(1, keepdim=True) / counts
    deviation = (variance + 1e-12).sqrt() * one[:, :, None]  # a gradient at 0, where there is one frame
    return torch.cat([mean, deviation], dim=-1), one


def pool_layers(frames: Tensor, mask: Tensor, pooling: str, layers: int) -> tuple[Tensor, Tensor]:
    """As `pool`, for frames (B, T, L · D) of L layers side by side; so are the layers' results."""
    pooled, pooled_mask = pool(frames, mask, pooling)
    if pooling == "mean_std" and layers > 1:  # each layer's mean and deviation side by side
        sides = pooled.view(pooled.shape[0], 1, 2, layers, -1)
        pooled = sides.transpose(2, 3).flatten(2)  # (B, 1, 2 L · D)
    return pooled, pooled_mask


class Front(nn.Module, ABC):
    """What a model applies to stored inputs (B, S, I), their mask (B, S) and draws (B,) before it standardises them.

    Attributes:
        augment: see `TrainedPart`.
        gives_views: see `TrainedPart`.
    """

    def __init__(self, augment: Augment | None) -> None:
        super().__init__()
        self.augment, self.gives_views = augment, False

    @abstractmethod
    def forward(self, values: Tensor, mask: Tensor, draw: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Inputs (B, T, I') of the trained part, and their mask (B, T)."""


class TrainedPart(nn.Module, ABC):
    """The trained part of an encoder. Missing utterances and padding never change another utterance's features.

    Only weights that train, and buffers beside them, are in its `state_dict`: the rest comes with the checkpoint that
    the encoder names.

    Attributes:
        rate: its learning rate by default, as a factor of the optimizer's.
        front: what the model applies to stored inputs, mask and draws before it standardises them; `None` for nothing.
        augment: how inputs are augmented in training; `None` for not at all.
        gives_views: whether inputs that come with draws are augmented in evaluation too: views that a loss compares.

    Args:
        pooling: over time, see `pool`.
        shortest: inputs that give a frame; shorter ones are padded with zeros.
        longest: inputs of one window, longer ones are encoded in equal windows; `None` where only memory limits it.
        pads_exactly: false where padding changes the frames before it: then batches of equal length are encoded in
            evaluation.
        standardised: I where the inputs are standardised as `model.normalisation` says, else 0.
    """

    rate: float = 1.0
    unexportable: str = ""  # why it cannot be exported as a graph; "" where it can
    reads_ids: bool = False  # whether inputs are names of things, such as token ids, that have no mean

    def __init__(
        self,
        *,
        pooling: str = "none",
        shortest: int = 1,
        longest: int | None = None,
        pads_exactly: bool = True,
        standardised: int = 0,
    ) -> None:
        super().__init__()
        self.pooling, self.shortest, self.longest = pooling, shortest, longest
        self.pads_exactly, self.standardised = pads_exactly, standardised
        self.front: Front | None = None
        self.augment: Augment | None = None
        self.gives_views = False
        self._register_state_dict_hook(_drop_frozen)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_add_frozen)  # type: ignore[no-untyped-call]

    @property
    def augments(self) -> bool:
        """Whether anything is augmented."""
        return self.augment is not None or (self.front is not None and self.front.augment is not None)

    def give_views(self) -> None:
        """From now on inputs that come with draws are augmented in evaluation too."""
        self.gives_views = True
        if self.front is not None:
            self.front.gives_views = True

    @property
    @abstractmethod
    def frame_dim(self) -> int:
        """D of a frame of one layer."""

    @property
    def layer_count(self) -> int:
        """L, the number of layers whose frames lie side by side."""
        return 1

    @property
    def dim(self) -> int:
        """The width of the features: L · D, or 2 L · D for "mean_std"."""
        return self.layer_count * self.frame_dim * (2 if self.pooling == "mean_std" else 1)

    @abstractmethod
    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (N, T', L · D) and the number (N,) of those that are data.

        Args:
            values: (N, T, I) what the store keeps, zero after the end.
            lengths: (N,) how many of the T are data; at least `shortest`.
        """

    def scaled(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Whole inputs (N, T, I) of `lengths` (N,), as `frames` takes them, before they are cut into windows."""
        return values

    def depth(self, name: str) -> int:
        """How many layers lie between a parameter and the part's output, for rates that decay by layer."""
        return 0

    def is_new(self, name: str) -> bool:
        """Whether a parameter has new weights above pretrained ones: it learns at the optimizer's own rate."""
        return False

    def forward(
        self, values: Tensor, mask: Tensor, present: Tensor, draw: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features (B, T', L · D), zero for missing utterances, and their mask (B, T').

        Args:
            values: (B, T, I).
            mask: (B, T) true where there is data, which comes first.
            present: (B,) false where an utterance lacks the modality.
            draw: (B,) int64 of (seed, epoch, id), from which augmentation is drawn in training; `None` for none.
        """
        rows = present.nonzero()[:, 0]
        if len(rows) == 0:
            return self.nothing(mask.device).expand(len(present), 1, self.dim), mask[:, :1] & present[:, None]
        inputs, lengths = values[rows], mask[rows].sum(1)
        if (self.training or self.gives_views) and self.augment is not None and draw is not None:
            inputs, lengths = self.augment(inputs, lengths, draw[rows])
        frames, counts = self._in_windows(self.scaled(inputs, lengths), lengths)
        frames = frames[:, : int(counts.max())]
        mask = length_mask(counts, frames.shape[1])
        pooled, pooled_mask = pool_layers(frames.float(), mask, self.pooling, self.layer_count)
        features = pooled.new_zeros(len(present), *pooled.shape[1:]).index_copy(0, rows, pooled)
        return features, pooled_mask.new_zeros(len(present), pooled_mask.shape[1]).index_copy(0, rows, pooled_mask)

    def in_one_pass(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward` in evaluation, with no step that depends on a value: it can be exported as a graph.

        Args:
            values: (B, T, I), of at least `shortest` steps, zero after the end.
            lengths: (B,) how many of the T are data, at most `longest`; 0 where the utterance lacks the modality. Where
                padding changes frames, all others have equal lengths.
        """
        lacks = lengths == 0
        frames, counts = self.frames(self.scaled(values, lengths.clamp_min(1)), lengths.clamp_min(self.shortest))
        mask = length_mask(counts, frames.shape[1])
        pooled, pooled_mask = pool_layers(frames.float(), mask, self.pooling, self.layer_count)
        return pooled.masked_fill(lacks[:, None, None], 0), pooled_mask & ~lacks[:, None]

    def nothing(self, device: torch.device) -> Tensor:
        """Zero (), of which every parameter that trains has a gradient: other ranks wait for it."""
        return sum((item.sum() * 0 for _, item in self.trained()), torch.zeros((), device=device))

    def _in_windows(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `frames`, for inputs of any length."""
        longest = int(lengths.max())
        if self.longest is None or longest <= self.longest:
            return self._in_groups(values[:, : max(longest, self.shortest)], lengths)
        cuts = [
            [(row, *border) for border in windows(length, self.longest)] for row, length in enumerate(lengths.tolist())
        ]
        pieces = [values[row, start:end] for cut in cuts for row, start, end in cut]
        sizes = torch.tensor([len(piece) for piece in pieces], device=lengths.device)
        frames, counts = self._in_groups(nn.utils.rnn.pad_sequence(pieces, batch_first=True), sizes)
        parts = iter(states[:count] for states, count in zip(frames, counts.tolist(), strict=True))
        joined = [torch.cat([next(parts) for _ in cut]) for cut in cuts]
        whole = torch.tensor([len(states) for states in joined], device=lengths.device)
        return nn.utils.rnn.pad_sequence(joined, batch_first=True), whole

    def _in_groups(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `frames`; where padding would change the frames, in evaluation one group of equal length at a time."""
        if missing := self.shortest - values.shape[1]:
            values = nn.functional.pad(values, (0, 0, 0, max(0, missing)))
        sizes = lengths.clamp_min(self.shortest)
        if self.training or self.pads_exactly or bool((sizes == sizes[0]).all()):
            return self.frames(values[:, : int(sizes.max())], sizes)
        order, parts, counts = [], [], []
        for size in sorted(set(sizes.tolist())):
            rows = (sizes == size).nonzero()[:, 0]
            frames, own = self.frames(values[rows, :size], sizes[rows])
            order.append(rows)
            parts += list(frames)
            counts.append(own)
        back = torch.cat(order).argsort()
        padded = nn.utils.rnn.pad_sequence(parts, batch_first=True)
        return padded[back], torch.cat(counts)[back]

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of those that train."""
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)


def _frozen_names(module: nn.Module) -> set[str]:
    """Names of the parameters that do not train, and of the buffers of modules that have only such parameters."""
    names = set()
    for path, part in module.named_modules():
        own = list(part.named_parameters(recurse=False))
        prefix = f"{path}." if path else ""
        names |= {prefix + name for name, parameter in own if not parameter.requires_grad}
        if own and not any(parameter.requires_grad for _, parameter in own):
            names |= {prefix + name for name, _ in part.named_buffers(recurse=False)}
    return names


def _drop_frozen(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Leaves out of a `state_dict` what does not train."""
    for name in _frozen_names(module):
        state.pop(prefix + name, None)


def _add_frozen(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Adds to a `state_dict` that is loaded what `_drop_frozen` has left out: the module's own values."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name in _frozen_names(module):
        if name in own:
            state.setdefault(prefix + name, own[name])
