"""Where somebody speaks in a recording, by voice activity detection."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from emorec.datasets.utterance import Utterance
from emorec.encoders.trained import windows
from emorec.errors import UserError
from emorec.media.decoding_process import SHARED
from emorec.media.signal import resampled

RATE = 16_000  # Hz, that the detector reads
CHUNK = 512  # samples, that it reads at once
BLOCK_SECONDS = 60.0  # of sound that are in memory at a time
PAUSE_SECONDS = 0.3  # shorter pauses belong to what is spoken
SHORTEST_SECONDS = 0.25  # of speech; less is a click
LONGEST_SECONDS = 15.0  # longer speech is cut into equal parts


def spoken(clip: Utterance, start: float, end: float) -> Iterator[tuple[float, float]]:
    """(start, end) of each stretch of speech, seconds on the clock of the clip's file.

    The detector is Silero VAD, whose weights come with its package. Memory is that of a minute of sound.

    Args:
        clip: with sound, or a video with a sound track; of one without sound nothing is spoken.
        start: seconds, of what is searched.
        end: seconds.

    Raises:
        UserError: the package is not installed.
    """
    if clip.audio is None:
        return
    for first, last in _stretches(clip, start, end):
        if last - first < SHORTEST_SECONDS:
            continue
        for begin, stop in windows(round((last - first) * RATE), round(LONGEST_SECONDS * RATE)):
            yield first + begin / RATE, first + stop / RATE


def _stretches(clip: Utterance, start: float, end: float) -> Iterator[tuple[float, float]]:
    detector = _detector()
    begun: float | None = None
    for chunk in _chunks(clip, start, end):
        event = detector(chunk) or {}
        if "start" in event:
            begun = start + event["start"] / RATE
        if "end" in event and begun is not None:
            yield begun, min(end, start + event["end"] / RATE)
            begun = None
    if begun is not None:
        yield begun, end


@cache
def _model() -> Any:
    try:
        import onnxruntime  # noqa: F401
        import silero_vad
    except ImportError as error:
        raise UserError(
            f"window=speech: expected the package {error.name}, which is not installed: pip install 'emorec[vad]'"
        ) from error
    return silero_vad.load_silero_vad(onnx=True)


def _detector() -> Any:
    model = _model()
    from silero_vad import VADIterator

    return VADIterator(model, sampling_rate=RATE, min_silence_duration_ms=round(1000 * PAUSE_SECONDS))


def _chunks(clip: Utterance, start: float, end: float) -> Iterator[Tensor]:
    """The sound at `RATE` in chunks of `CHUNK` samples; the last is filled with zeros."""
    assert clip.audio is not None
    rest = torch.zeros(0)
    while start < end:
        stop = min(start + BLOCK_SECONDS, end)
        sound, rate = SHARED.sound(clip.audio, start=start, end=stop, maximum_seconds=2 * BLOCK_SECONDS)
        if len(sound):
            rest = torch.cat([rest, torch.from_numpy(resampled(sound, rate, RATE))])
        whole = len(rest) // CHUNK * CHUNK
        yield from rest[:whole].view(-1, CHUNK)
        rest, start = rest[whole:], stop
    if len(rest):
        yield torch.nn.functional.pad(rest, (0, CHUNK - len(rest)))
