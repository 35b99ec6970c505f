"""One modality of a run that is exported: its encoder, and how a graph reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emorec.encoders.below_cut import BelowCut
from emorec.encoders.encoder import Encoder
from emorec.encoders.huggingface_audio import HuggingFaceAudio
from emorec.encoders.log_mel import LogMel
from emorec.encoders.picture_part import PicturePart
from emorec.encoders.text_part import TextPart
from emorec.encoders.trained import TrainedPart
from emorec.encoders.vocabulary import FIRST, WordNumbers
from emorec.encoders.waveform import sixteen_bit
from emorec.errors import UserError, raise_problems
from emorec.inference.export.graph_input import GraphInput
from emorec.inference.export.reading import Reading
from emorec.inference.export.settings import settings_of
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.source import Source
from emorec.media.video import VideoSettings, read_video

Asked = Literal["features", "raw"] | None
Array = NDArray[Any]


@dataclass(frozen=True)
class Port:
    """How a modality enters a graph, and how the run itself would read the same."""

    encoder: Encoder  # of the run
    reading: Reading  # the first step of the graph
    reason: str = ""  # why it takes features and no media; "" where it does, or where features were asked for

    @property
    def declared(self) -> GraphInput:
        """The input of the graph."""
        return self.reading.declared

    def value_of(self, source: Source) -> Array:
        """The input (T, …) of the graph for a source; raises as `Encoder.read` does."""
        stored, kind = self.encoder.stored(), self.declared.kind
        stored.load()
        if kind == "features":
            with torch.inference_mode():
                features, mask = stored.encode(stored.collate([stored.read(source)]))
            return features[0][mask[0]].to(getattr(torch, stored.dtype)).float().numpy()
        media = self.encoder.media
        if kind == "sound":
            assert isinstance(media, AudioSettings)
            return read_audio(source, media)
        if kind == "frames":
            assert isinstance(media, VideoSettings)
            return np.asarray(read_video(source, media))
        if kind == "bands":
            return self._whisper.log_mel(source)
        if isinstance(stored, WordNumbers):
            return stored.features(source)[:, 0].astype(np.int64)
        whole: Any = self.encoder
        return np.asarray(whole.decoded(source))[:, 0].astype(np.int64)

    def stored_row(self, value: Array, sound: Array | None = None) -> Tensor:
        """What the run's store keeps (T, I) of an input (T, …) of the graph, computed by its encoder alone.

        Args:
            value: the input.
            sound: the waveform that the input is computed of, for kind "bands".
        """
        kind, stored = self.declared.kind, self.encoder.stored()
        if kind == "features":
            return torch.from_numpy(value)
        row = self._decoded_row(value)
        if self.reading.lower is None:
            return row
        stored.load()
        stored.eval()
        with torch.inference_mode():
            features, mask = stored.encode(self._collated(stored, value, row, sound))
        kept = features[0][mask[0]]
        return kept.half() if self.reading.stored == "float16" else kept

    def _decoded_row(self, value: Array) -> Tensor:
        """The decoded input (T, I), as it is stored where a network trains on it."""
        kind = self.declared.kind
        if kind == "tokens":
            return torch.from_numpy(value.astype(np.int32))[:, None]
        if kind == "sound":
            return torch.from_numpy(sixteen_bit(value))
        if kind == "frames":
            return torch.from_numpy(value.reshape(len(value), -1))
        row = torch.from_numpy(value)
        return row.half() if self.reading.decoded == "float16" else row

    def _collated(self, stored: Encoder, value: Array, row: Tensor, sound: Array | None) -> dict[str, Tensor]:
        """The input of `stored.encode` for one utterance."""
        if isinstance(stored, BelowCut):
            return stored.collate([row.numpy()])
        if isinstance(stored, LogMel):
            return stored.collate([stored.frames_of(value)])
        if self.declared.kind == "tokens":
            tokens = torch.from_numpy(value)[None]
            return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        if self.declared.kind == "bands" and self._whisper.window == "padded":
            return stored.collate([sound])
        return stored.collate([value])

    @property
    def _whisper(self) -> HuggingFaceAudio:
        assert isinstance(self.encoder, HuggingFaceAudio)
        return self.encoder


def ports_of(
    encoders: Mapping[str, Encoder],
    parts: Mapping[str, TrainedPart],
    widths: Mapping[str, int],
    asked: Asked,
    specs: Mapping[str, list[dict[str, Any]]] | None = None,
) -> dict[str, Port]:
    """{modality: its port}.

    Args:
        encoders: {modality: encoder} of the run.
        parts: {modality: trained part} in the run's model.
        widths: {modality: width of the features that the model reads}.
        asked: "features" as they are stored, "raw" for decoded media, or `None` for these where an encoder can.
        specs: {modality: specs of its features}, one for each layer.

    Raises:
        UserError: an encoder cannot read media within a graph, and `asked` is "raw".
    """
    ports, problems = {}, []
    for modality, encoder in encoders.items():
        part = parts.get(modality)
        reason = ""
        if asked != "features":
            try:
                ports[modality] = _raw(modality, encoder, part)
                continue
            except UserError as error:
                reason = str(error)
                problems.append(f"expected reads=features, since encoder.{modality} cannot read media: {reason}")
        settings = {"specs": (specs or {}).get(modality, [])}
        ports[modality] = _features(modality, encoder, part, width=widths[modality], settings=settings, reason=reason)
    raise_problems("reads=raw", problems if asked == "raw" else [])
    return ports


def _features(
    modality: str, encoder: Encoder, part: TrainedPart | None, *, width: int, settings: dict[str, Any], reason: str
) -> Port:
    """The port of what the store keeps: features, or the inputs of an encoder that trains."""
    stored = encoder.stored()
    if part is not None:
        is_computed = stored.whole.train_from > 0 if isinstance(stored, BelowCut) else isinstance(stored, LogMel)
        if not is_computed:
            return _raw(modality, encoder, part)
        width = stored.dim
    limits = {} if part is None else {"shortest": part.shortest, "longest": part.longest}
    declared = GraphInput(
        name=modality,
        kind="features",
        sizes=(width,),
        pads_exactly=part is None or part.pads_exactly,
        settings=settings,
        **limits,  # type: ignore[arg-type]
    )
    return Port(encoder, Reading(declared), reason)


def _raw(modality: str, encoder: Encoder, part: TrainedPart | None) -> Port:
    """The port of decoded media.

    Raises:
        UserError: the encoder computes its features outside a network.
    """
    stored = encoder.stored()
    lower = stored.as_part()
    first = lower or part
    assert first is not None
    kind = stored.decodes
    has_front = first is part and first.front is not None
    longest = None if has_front else first.longest
    if kind == "tokens":
        longest = int(getattr(encoder, "max_length"))  # noqa: B009
    pads_exactly = all(item.pads_exactly for item in (lower, part) if item is not None)
    declared = GraphInput(
        name=modality,
        kind=kind,
        sizes=_sizes(encoder, kind),
        steps=_steps(encoder, first),
        shortest=1 if has_front else first.shortest,
        longest=longest,
        pads_exactly=pads_exactly,
        vocabulary=_vocabulary(stored, first) if kind == "tokens" else None,
        settings=settings_of(encoder, kind),
    )
    trains = encoder.mode != "frozen" and not isinstance(stored, LogMel)
    decoded = {"sound": "int16", "bands": str(stored.dtype)}.get(kind, "") if trains else ""
    return Port(encoder, Reading(declared, lower=lower, decoded=decoded, stored=str(stored.dtype)))


def _sizes(encoder: Encoder, kind: str) -> tuple[int, ...]:
    """Of the dimensions after time."""
    if kind == "frames":
        assert isinstance(encoder.media, VideoSettings)
        return (encoder.media.size, encoder.media.size, 3)
    if kind == "bands":
        assert isinstance(encoder, HuggingFaceAudio)
        return (encoder.decoded_width,)
    return ()


def _steps(encoder: Encoder, first: TrainedPart) -> int | None:
    """The number of frames of a network that reads a clip as a whole."""
    if isinstance(first, PicturePart) and first.clip:
        assert isinstance(encoder.media, VideoSettings)
        return encoder.media.frames
    return None


def _vocabulary(stored: Encoder, first: TrainedPart) -> int:
    """The number of tokens."""
    if isinstance(stored, WordNumbers):
        assert stored.words is not None
        return FIRST + len(stored.words)
    assert isinstance(first, TextPart)
    return int(first.stack.network.config.vocab_size)  # type: ignore[union-attr, arg-type]
