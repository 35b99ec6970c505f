"""The conditions of the robustness card, and what they do to clips."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from emorec.cards import picture_changes as pictures
from emorec.cards import sound_changes as sounds
from emorec.cards import text_changes as texts
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError
from emorec.media.decoding_process import SHARED
from emorec.media.signal import Waveform
from emorec.media.source import Change, MediaError

Media = NDArray[Any]
ChangeMedia = Callable[[Media, int, Generator], Media]  # (media, rate, generator)
ChangeText = Callable[[str, Generator], str]

MISSING = "missing"  # family of the rows without a modality
TALKERS = 5  # voices of a babble
VOICES = 40  # clips that babble is made of
VOICE_SECONDS = 60.0
NOISE, ROOMS, LOSSES, GAINS = (20, 10, 5, 0), (0.3, 0.6, 0.9), (5, 10, 20), (-10, 10)  # dB, seconds, %, dB


@dataclass(frozen=True)
class Condition:
    """Something that happens to one modality."""

    name: str  # for readers, such as "noise white 10 dB"; the first word is its family
    modality: str  # that it changes
    media: ChangeMedia | None = None  # changes decoded media; `None` for text
    text: ChangeText | None = None  # changes a text; `None` for media
    voices: "Voices | None" = None  # of the corpus that `media` takes as `voices`; `None` for none

    def is_asked_for(self, names: Sequence[str] | None) -> bool:
        """Whether it is one of some names or families; `None` for all."""
        return names is None or self.name in names or self.name.split()[0] in names

    def applied(self, clips: Sequence[Utterance], seed: int) -> tuple[list[Utterance], dict[str, dict[str, Change]]]:
        """The clips with other texts, and {modality: {id: what is done to its media}}."""
        if self.text is not None:
            return [_with_text(clip, self.text, _generator(self.name, seed, clip.id)) for clip in clips], {}
        changes: dict[str, Change] = {clip.id: MediaChange(self, seed, clip) for clip in clips}
        return list(clips), {self.modality: changes}


@dataclass(frozen=True)
class MediaChange:
    """What a condition does to the media of one clip: a function of the condition, the seed and the clip's id."""

    condition: Condition
    seed: int
    clip: Utterance

    @property
    def key(self) -> str:
        voices = "" if self.condition.voices is None else self.condition.voices.key
        return f"{self.condition.name}|{self.seed}|{self.clip.id}|{voices}"

    def __call__(self, media: Media, rate: int) -> Media:
        condition, generator = self.condition, _generator(self.condition.name, self.seed, self.clip.id)
        assert condition.media is not None
        if condition.voices is None:
            return condition.media(media, rate, generator)
        change: Any = condition.media
        changed: Media = change(media, rate, generator, voices=condition.voices.beside(self.clip, generator))
        return changed


def _generator(name: str, seed: int, identifier: str) -> Generator:
    digest = hashlib.sha256(f"{name}|{seed}|{identifier}".encode(errors="surrogatepass")).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _with_text(clip: Utterance, change: ChangeText, generator: Generator) -> Utterance:
    return clip if not (clip.text or "").strip() else replace(clip, text=change(str(clip.text), generator))


class Voices:
    """Other clips of the corpus, of which babble is made; they are decoded once.

    Args:
        clips: with sound.
    """

    def __init__(self, clips: Sequence[Utterance]) -> None:
        audible = [clip for clip in clips if clip.audio is not None]
        self._clips = audible[:: max(1, len(audible) // VOICES)][:VOICES]

    @property
    def key(self) -> str:
        return hashlib.sha256("\0".join(clip.id for clip in self._clips).encode(errors="surrogatepass")).hexdigest()

    def beside(self, clip: Utterance, generator: Generator) -> list[tuple[Waveform, int]]:
        """The sound (samples, rate) of some clips of other speakers, or of the same one where there is no other."""
        others = [row for row, (own, _) in enumerate(self._decoded) if own.id != clip.id]
        strangers = [row for row in others if self._decoded[row][0].speaker != clip.speaker or clip.speaker is None]
        rows = strangers or others
        chosen = generator.choice(rows, size=min(TALKERS, len(rows)), replace=False).tolist() if rows else []
        return [self._decoded[row][1] for row in chosen]

    @cached_property
    def _decoded(self) -> list[tuple[Utterance, tuple[Waveform, int]]]:
        return [(clip, sound) for clip in self._clips if (sound := _sound_of(clip)) is not None]


def _sound_of(clip: Utterance) -> tuple[Waveform, int] | None:
    """(samples, rate); `None` where it cannot be decoded."""
    start, end = clip.segment("audio")
    assert clip.audio is not None
    try:
        waveform, rate = SHARED.sound(clip.audio, start=start, end=end, maximum_seconds=VOICE_SECONDS)
    except (MediaError, OSError):
        return None
    return (waveform, rate) if len(waveform) and np.isfinite(waveform).all() else None


def all_conditions(corpus: Sequence[Utterance]) -> list[Condition]:
    """Those that can be made here, for all modalities; `corpus` gives voices and words.

    A codec that the installed FFmpeg cannot encode by is left out.
    """
    return [*_of_sound(Voices(corpus)), *_of_pictures(), *_of_text(corpus)]


def _of_sound(voices: Voices) -> Iterator[Condition]:
    def condition(name: str, change: ChangeMedia, **more: Any) -> Condition:
        return Condition(name, "audio", media=change, **more)

    for level in NOISE:
        yield condition(f"noise white {level} dB", partial(sounds.white_noise, decibels=level))
    for level in NOISE:
        babble: Any = partial(sounds.babble, decibels=level)
        yield condition(f"noise babble {level} dB", babble, voices=voices)
    for seconds in ROOMS:
        yield condition(f"reverberation {seconds:g} s", partial(sounds.reverberation, seconds=seconds))
    yield condition("telephone band", sounds.telephone)
    yield condition("codec μ-law 8 kHz", sounds.mu_law)
    for name, text in (("amr", "AMR 12.2k"), ("mp3", "MP3 32k"), ("opus", "Opus 16k")):
        if sounds.has_codec(name):
            yield condition(f"codec {text}", partial(sounds.codec, name=name))
    yield condition("clipping 10 %", partial(sounds.clipping, share=0.1))
    for percent in LOSSES:
        yield condition(f"packets lost {percent} %", partial(sounds.packet_loss, share=percent / 100))
    for level in GAINS:
        yield condition(f"gain {level:+d} dB", partial(sounds.gain, decibels=level))


def _of_pictures() -> Iterator[Condition]:
    def condition(name: str, change: ChangeMedia) -> Condition:
        return Condition(name, "video", media=change)

    for percent in (20, 50):
        yield condition(f"frames dropped {percent} %", partial(pictures.dropped_frames, share=percent / 100))
    for percent in (2, 5):
        yield condition(f"blur {percent} %", partial(pictures.blur, share=percent / 100))
    for percent in (50, 20):
        yield condition(f"light {percent} %", partial(pictures.darkness, factor=percent / 100))
    for quantiser in (15, 31):
        yield condition(f"compression {quantiser}", partial(pictures.compression, quantiser=quantiser))
    yield condition("hidden lower half", pictures.hidden_lower_half)


def _of_text(corpus: Sequence[Utterance]) -> Iterator[Condition]:
    vocabulary = [word for item in corpus for word in (item.text or "").split()]

    def condition(name: str, change: ChangeText) -> Condition:
        return Condition(name, "text", text=change)

    for percent in (2, 5):
        yield condition(f"typing errors {percent} %", partial(texts.typing_errors, share=percent / 100))
    for percent in (10, 20) if vocabulary else ():
        change = partial(texts.recognition_errors, rate=percent / 100, vocabulary=vocabulary)
        yield condition(f"recognition errors {percent} %", change)
    for percent in (10, 30):
        yield condition(f"words missing {percent} %", partial(texts.missing_words, share=percent / 100))
    yield condition("bare text", texts.bare)


def conditions_of(
    corpus: Sequence[Utterance], modalities: Sequence[str], names: Sequence[str] | None
) -> list[Condition]:
    """The conditions of some modalities that are asked for.

    Raises:
        UserError: a name is that of no condition of these modalities.
    """
    known = [item for item in all_conditions(corpus) if item.modality in modalities]
    wrong = [name for name in names or () if not any(item.is_asked_for([name]) for item in known) and name != MISSING]
    if wrong:
        families = list(dict.fromkeys(item.name.split()[0] for item in known))
        raise UserError(f"card.conditions: expected names or first words, of {[*families, MISSING]}, got {wrong}")
    return [item for item in known if item.is_asked_for(names)]
