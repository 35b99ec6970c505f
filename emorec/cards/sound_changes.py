"""What rooms, lines and microphones do to sound.

Each function takes mono sound (samples,), full scale ±1, its rate in Hz and a generator of random numbers, and returns
sound of the same length and type.
"""

import io
import math
from functools import cache
from typing import Any

import numpy as np
from numpy.random import Generator

from emorec.media.signal import Waveform, resampled

PACKET = 0.02  # seconds
TELEPHONE_BAND = (300.0, 3400.0)  # Hz
TELEPHONE_RATE = 8000  # Hz
MU = 255  # of ITU-R G.711
FIRST_REFLECTION = 0.002  # seconds after the direct sound
CODECS = {  # name: (FFmpeg's encoder, format, rate in Hz that it is encoded at, bits a second)
    "mp3": ("libmp3lame", "mp3", 16_000, 32_000),
    "opus": ("libopus", "ogg", 16_000, 16_000),
    "amr": ("libopencore_amrnb", "amr", TELEPHONE_RATE, 12_200),
}


def power(waveform: Waveform) -> float:
    """The mean square."""
    return float(np.mean(np.square(waveform, dtype=np.float64)))


def mixed_at(waveform: Waveform, noise: Waveform, decibels: float) -> Waveform:
    """The sum of sound and noise (samples,), the noise scaled to a ratio of their powers over the whole clip."""
    loudness = power(noise)
    if loudness == 0:
        return waveform
    scale = math.sqrt(power(waveform) / loudness / 10 ** (decibels / 10))
    return (waveform + scale * noise).astype(np.float32)


def white_noise(waveform: Waveform, rate: int, generator: Generator, *, decibels: float) -> Waveform:
    """With white noise at a signal-to-noise ratio."""
    return mixed_at(waveform, generator.standard_normal(len(waveform)).astype(np.float32), decibels)


def babble(
    waveform: Waveform, rate: int, generator: Generator, *, voices: "list[tuple[Waveform, int]]", decibels: float
) -> Waveform:
    """With other voices, each (samples, rate), from a random place on, at a signal-to-noise ratio."""
    total = np.zeros(len(waveform), dtype=np.float64)
    for voice, own_rate in voices:
        sound = resampled(voice, own_rate, rate)
        loudness = math.sqrt(power(sound))
        if loudness > 0:
            places = (int(generator.integers(len(sound))) + np.arange(len(waveform))) % len(sound)
            total += sound[places] / loudness
    return mixed_at(waveform, total.astype(np.float32), decibels)


def impulse_response(rate: int, generator: Generator, *, seconds: float) -> Waveform:
    """Of a room: the direct sound, and noise of as much energy that decays by 60 dB in so many seconds.

    The statistical model of late reverberation (Polack 1988; Habets 2006, "Room impulse response generator").
    """
    time = np.arange(round(seconds * rate)) / rate
    tail = generator.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail[: max(1, round(FIRST_REFLECTION * rate))] = 0
    response = tail / math.sqrt(np.sum(tail**2))
    response[0] = 1.0
    return response.astype(np.float32)


def reverberation(waveform: Waveform, rate: int, generator: Generator, *, seconds: float) -> Waveform:
    """In a room with that reverberation time (RT60), as loud as before; what rings on after the end is cut off."""
    from scipy.signal import fftconvolve

    wet = fftconvolve(waveform, impulse_response(rate, generator, seconds=seconds))[: len(waveform)]
    level = math.sqrt(power(waveform) / max(power(wet), 1e-20))
    scaled: Waveform = (level * wet).astype(np.float32)
    return scaled


def telephone(waveform: Waveform, rate: int, generator: Generator) -> Waveform:
    """The band of an analogue telephone, 300 to 3400 Hz, without a shift in time."""
    from scipy.signal import butter, sosfiltfilt

    low, high = TELEPHONE_BAND
    sections = butter(6, (low, min(high, 0.49 * rate)), btype="bandpass", fs=rate, output="sos")
    padding = min(len(waveform) - 1, 3 * (2 * len(sections) + 1))
    filtered: Waveform = sosfiltfilt(sections, waveform, padlen=padding).astype(np.float32)
    return filtered


def mu_law(waveform: Waveform, rate: int, generator: Generator) -> Waveform:
    """A digital telephone: 8 kHz and 8 bits by the μ-law of ITU-T G.711."""
    narrow = np.clip(resampled(waveform, rate, TELEPHONE_RATE), -1, 1).astype(np.float64)
    compressed = np.sign(narrow) * np.log1p(MU * np.abs(narrow)) / math.log1p(MU)
    levels = np.round((compressed + 1) / 2 * MU) / MU * 2 - 1
    expanded = np.sign(levels) * np.expm1(np.abs(levels) * math.log1p(MU)) / MU
    return _of_length(resampled(expanded.astype(np.float32), TELEPHONE_RATE, rate), len(waveform))


def clipping(waveform: Waveform, rate: int, generator: Generator, *, share: float) -> Waveform:
    """An overdriven microphone: the loudest samples, so many of them, are cut to one level."""
    level = float(np.quantile(np.abs(waveform), 1 - share))
    clipped: Waveform = np.clip(waveform, -level, level).astype(np.float32)
    return clipped


def packet_loss(waveform: Waveform, rate: int, generator: Generator, *, share: float) -> Waveform:
    """Packets of 20 ms are silent: so many of them, at random places."""
    size = max(1, round(PACKET * rate))
    packets = math.ceil(len(waveform) / size)
    changed = waveform.copy()
    for number in generator.choice(packets, size=round(share * packets), replace=False).tolist():
        changed[number * size : (number + 1) * size] = 0
    return changed


def gain(waveform: Waveform, rate: int, generator: Generator, *, decibels: float) -> Waveform:
    """Louder or quieter; what exceeds full scale is clipped, as a recording in 16 bits is."""
    scaled: Waveform = np.clip(waveform * 10 ** (decibels / 20), -1, 1).astype(np.float32)
    return scaled


@cache
def has_codec(name: str) -> bool:
    """Whether the installed PyAV can encode by it."""
    import av

    try:
        av.codec.Codec(CODECS[name][0], "w")
    except (av.codec.codec.UnknownCodecError, ValueError):
        return False
    return True


def codec(waveform: Waveform, rate: int, generator: Generator, *, name: str) -> Waveform:
    """Encoded and decoded by one of `CODECS`, in memory, at the lag that correlates best with the original."""
    own_rate = CODECS[name][2]
    decoded = _coded(np.clip(resampled(waveform, rate, own_rate), -1, 1), name)
    back = resampled(decoded, own_rate, rate)
    return _of_length(back[_lag(waveform, back) :], len(waveform))


def _coded(waveform: Waveform, name: str) -> Waveform:
    import av

    encoder, form, rate, bits = CODECS[name]
    stream = io.BytesIO()
    with av.open(stream, "w", format=form) as container:
        track: Any = container.add_stream(encoder, rate=rate, layout="mono")
        track.bit_rate = bits
        samples = np.round(waveform * 32_767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(format=track.format, layout="mono", rate=rate, frame_size=track.frame_size or 0)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(track.encode(part))
        container.mux(track.encode(None))
    stream.seek(0)
    with av.open(stream, format=form) as container:
        back = av.AudioResampler(format="flt", layout="mono", rate=rate)
        frames = [part for item in container.decode(audio=0) for part in back.resample(item)]
        frames += back.resample(None)
    return np.concatenate([item.to_ndarray()[0] for item in frames]).astype(np.float32)


def _lag(waveform: Waveform, decoded: Waveform) -> int:
    """Samples by which the decoded sound is late: codecs add some at the start."""
    from scipy.signal import correlate

    size = min(len(waveform), len(decoded))
    products = correlate(decoded[:size], waveform[:size], mode="full", method="fft")[size - 1 :]
    return int(np.argmax(products))


def _of_length(waveform: Waveform, length: int) -> Waveform:
    return np.pad(waveform, (0, max(0, length - len(waveform))))[:length].astype(np.float32)
