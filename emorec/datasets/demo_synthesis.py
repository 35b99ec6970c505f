"""Synthesis of the demo corpus: a buzzing voice, a drawn face, and sentences from templates."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

# A fixed quantiser without look-ahead, since x264's rate control is not reproducible to the byte.
H264 = {"threads": "1", "qp": "22", "x264-params": "aq-mode=0:mbtree=0:rc-lookahead=0:scenecut=0"}
CODECS = {  # suffix: video codec with its options, audio codec
    ".mp4": ("libx264", H264, "aac"),
    ".avi": ("mpeg4", {"threads": "1"}, "pcm_s16le"),
    ".flv": ("flv", {"threads": "1"}, "libmp3lame"),
}
SAMPLE_RATE = 16_000  # Hz
FRAME_RATE = 12  # frames a second
FACE_SIZE = 96  # pixels
EXPRESSION_NOISE = 0.5  # standard deviation of the noise on arousal in the voice and valence in the face, which are ±1
MISLEADING_WORDS = 0.32  # share of sentences whose words hint at the opposite arousal, and likewise for valence

OPENINGS = ("Well,", "You know,", "Look,", "So,", "I mean,", "Listen,", "Okay,", "Hmm,")
SUBJECTS = ("the meeting", "this letter", "our trip", "the neighbour", "my brother", "the news", "dinner", "the rain")
# keys are arousal and valence
PREDICATES = {
    (1, -1): (
        "drives me mad",
        "is an outrage",
        "makes me furious",
        "is absolutely unacceptable",
        "must stop right now",
    ),
    (1, 1): ("is fantastic", "makes me want to dance", "is the best thing ever", "thrills me", "is so exciting"),
    (-1, 1): ("is quite alright", "feels peaceful", "is gentle and fine", "lets me rest", "is pleasantly quiet"),
    (-1, -1): ("is such a loss", "leaves me empty", "makes me want to cry", "hurts a little", "is gone for good"),
}
CLOSINGS = ("again.", "as always.", "today.", "these days.", "if you ask me.", "for me.")


def write_clip(audio: Path, video: Path, *, speaker: int, arousal: float, valence: float, generator: Generator) -> str:
    """Writes one clip as FLAC and as MP4 with the same sound, and returns its sentence.

    The number of the speaker determines the voice and the face. The voice expresses the arousal and the face the
    valence, each -1 or 1.
    """
    import soundfile

    sound = _voice(speaker, arousal + generator.normal(0, EXPRESSION_NOISE), generator)
    frames = _face_clip(speaker, valence + generator.normal(0, EXPRESSION_NOISE), len(sound) / SAMPLE_RATE, generator)
    soundfile.write(audio, sound, SAMPLE_RATE, subtype="PCM_16")
    write_video(video, frames, FRAME_RATE, sound, SAMPLE_RATE)
    return _sentence(arousal, valence, generator)


def _voice(speaker: int, arousal: float, generator: Generator) -> NDArray[np.float32]:
    """A buzz in syllables, (samples,). Higher arousal makes it higher, louder and faster, with more tremolo."""
    samples = int(SAMPLE_RATE * generator.uniform(1.0, 1.5))
    time = np.arange(samples) / SAMPLE_RATE
    base = (110 if speaker % 2 else 190) * (1 + 0.06 * speaker)
    pitch = base * 2 ** (0.22 * arousal + 0.05 * np.sin(2 * np.pi * generator.uniform(0.5, 1.0) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    tilt = 1.4 - 0.25 * arousal - 0.03 * speaker
    harmonics = np.arange(1, 16)[:, None]
    buzz = (np.sin(harmonics * phase) / harmonics**tilt).sum(axis=0)
    syllable_rate = 3.5 * 2 ** (0.3 * arousal) * generator.uniform(0.9, 1.1)
    syllables = 0.15 + 0.85 * np.sin(np.pi * syllable_rate * time + generator.uniform(0, np.pi)) ** 2
    tremolo = 1 + max(0.0, 0.15 + 0.12 * arousal) * np.sin(2 * np.pi * 9 * time)
    loudness = 0.08 * 2 ** (0.6 * arousal + generator.normal(0, 0.2))
    sound = loudness * buzz * syllables * tremolo + generator.normal(0, 0.004, samples)
    clipped: NDArray[np.float32] = np.clip(sound, -1, 1).astype(np.float32)
    return clipped


def _face_clip(speaker: int, valence: float, seconds: float, generator: Generator) -> NDArray[np.uint8]:
    """Frames (N, H, W, 3) of a face that blinks and speaks. Mouth corners and brows follow the valence."""
    count = max(2, round(seconds * FRAME_RATE))
    blink = generator.integers(0, count)
    sway = generator.uniform(0, 2 * np.pi)
    frames = [
        _face(
            speaker,
            valence + generator.normal(0, 0.15),
            opening=0.5 + 0.5 * np.sin(1.9 * frame + sway),
            blinking=frame == blink,
            shift=(2.0 * np.sin(0.4 * frame + sway), 1.5 * np.cos(0.3 * frame + sway)),
        )
        for frame in range(count)
    ]
    noise = generator.normal(0, 6, (count, FACE_SIZE, FACE_SIZE, 1))
    return np.clip(np.stack(frames) + noise, 0, 255).astype(np.uint8)


def _face(
    speaker: int, valence: float, *, opening: float, blinking: bool, shift: tuple[float, float]
) -> NDArray[np.float64]:
    rows, columns = np.mgrid[0:FACE_SIZE, 0:FACE_SIZE].astype(np.float64)
    x = (columns - FACE_SIZE / 2 - shift[0]) / (FACE_SIZE / 2)  # -1 … 1
    y = (rows - FACE_SIZE / 2 - shift[1]) / (FACE_SIZE / 2)
    picture = np.empty((FACE_SIZE, FACE_SIZE, 3))
    picture[:] = (70 + 8 * speaker, 90, 120 - 6 * speaker)  # background
    width, height = 0.62 + 0.015 * (speaker % 4), 0.8 - 0.02 * (speaker % 3)
    picture[(x / width) ** 2 + (y / height) ** 2 < 1] = (225 - 9 * speaker, 185 - 8 * speaker, 150 - 6 * speaker)
    for side in (-1, 1):
        eye = ((x - 0.25 * side) / 0.1) ** 2 + ((y + 0.2) / (0.015 if blinking else 0.07)) ** 2 < 1
        picture[eye] = (30, 30, 40)
        inner = (0.4 - x * side) / 0.3  # 1 at the nose, 0 at the temple
        brow = np.abs(y + 0.38 + 0.07 * valence * (inner - 0.5)) < 0.025
        picture[brow & (inner > 0) & (inner < 1)] = (60, 40, 30)
    curve = 0.38 - 0.14 * valence * ((x / 0.3) ** 2 - 0.4)  # corners up for positive valence
    mouth = (np.abs(y - curve) < 0.03 + 0.03 * opening) & (np.abs(x) < 0.3)
    picture[mouth] = (150, 40, 50)
    return picture


def _sentence(arousal: float, valence: float, generator: Generator) -> str:
    hints = tuple(int(sign * (-1 if generator.random() < MISLEADING_WORDS else 1)) for sign in (arousal, valence))
    parts = (OPENINGS, SUBJECTS, PREDICATES[hints[0], hints[1]], CLOSINGS)
    return " ".join(part[generator.integers(len(part))] for part in parts)


def write_video(
    path: Path, frames: NDArray[np.uint8], frame_rate: int, sound: NDArray[np.float32] | None, sample_rate: int
) -> None:
    """Writes a video file. Its suffix selects MP4 (H.264, AAC), AVI (MPEG-4, PCM) or FLV (Sorenson, MP3).

    Args:
        frames: (N, H, W, 3).
        frame_rate: frames per second.
        sound: (samples,) or (channels, samples) with 1 or 6 channels; `None` for a file without a sound track.
        sample_rate: Hz.
    """
    import av

    video_codec, options, audio_codec = CODECS[path.suffix]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream(video_codec, rate=frame_rate, options=options)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        samples = None if sound is None else np.atleast_2d(sound)
        layout = "mono" if samples is None or len(samples) == 1 else "5.1"
        track = None if samples is None else container.add_stream(audio_codec, rate=sample_rate, layout=layout)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if samples is not None and track is not None:
            audio = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            audio.sample_rate = sample_rate
            audio.time_base = Fraction(1, sample_rate)
            audio.pts = 0
            container.mux(track.encode(audio))
            container.mux(track.encode())
