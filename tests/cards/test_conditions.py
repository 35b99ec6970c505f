"""Conditions: what they do to a clip depends on the condition, the seed and the clip's id alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emorec.cards.conditions import MediaChange, Voices, all_conditions, conditions_of
from emorec.datasets.utterance import Utterance
from emorec.errors import UserError
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.source import Source
from tests.conftest import tone

MODALITIES = ("text", "audio", "video")


def clip(
    name: str, speaker: str | None = None, audio: Path | None = None, text: str = "well hello there you"
) -> Utterance:
    return Utterance(id=name, dataset="custom", targets={}, speaker=speaker, audio=audio, text=text)


@pytest.mark.parametrize("condition", all_conditions([clip("a")]), ids=lambda item: item.name)
def test_every_condition_changes_its_modality_in_the_same_way_again(condition: object) -> None:
    (item,) = [own for own in all_conditions([clip("a")]) if own.name == condition.name]  # type: ignore[attr-defined]
    longer = [clip(f"c{number}", text="Well, hello there, you and I know it. " * 5) for number in range(3)]
    first, changes = item.applied(longer, 0)
    again, _ = item.applied(list(reversed(longer)), 0)
    assert first == list(reversed(again))
    if item.modality == "text":
        assert [own.text for own in first] != [own.text for own in longer]
        return
    frames = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3)).astype(np.uint8)
    media = tone(0.5) if item.modality == "audio" else frames
    rate = 16_000 if item.modality == "audio" else 0
    results = [changes[item.modality]["c1"](media, rate) for _ in range(2)]
    assert np.array_equal(*results)
    assert results[0].shape == media.shape
    assert results[0].dtype == media.dtype
    if item.voices is None:  # there are no others here
        assert not np.array_equal(results[0], media)


def test_other_clips_and_other_seeds_get_other_noise() -> None:
    (noise,) = [item for item in all_conditions([]) if item.name == "noise white 10 dB"]
    changes = [MediaChange(noise, seed, clip(name)) for seed, name in ((0, "a"), (0, "b"), (1, "a"))]
    results = [change(tone(0.2), 16_000) for change in changes]
    assert len({change.key for change in changes}) == 3
    assert not np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_babble_is_made_of_other_speakers(write_sound: Callable[..., Path]) -> None:
    clips = [
        clip(f"u{number}", speaker, write_sound(f"{number}.wav", tone(0.2, pitch=200.0 + 100 * number)))
        for number, speaker in enumerate(["a", "a", "b", "c"])
    ]
    clips.append(clip("broken", "d", write_sound("empty.wav", np.zeros(0, np.float32))))
    voices = Voices(clips)
    chosen = voices.beside(clips[0], np.random.default_rng(0))
    assert len(chosen) == 2  # of b and c
    expected = [tone(0.2, pitch=400.0), tone(0.2, pitch=500.0)]
    assert all(any(np.allclose(sound, item, atol=1e-3) for item in expected) for sound, _ in chosen)
    assert len(Voices(clips[:2]).beside(clips[0], np.random.default_rng(0))) == 1  # there is no other speaker


def test_sound_is_changed_before_it_is_conditioned(write_sound: Callable[..., Path]) -> None:
    (gain,) = [item for item in all_conditions([]) if item.name == "gain -10 dB"]
    path = write_sound("a.wav", tone(0.3, rate=8000), rate=8000)
    source = Source(modality="audio", path=path)
    changed = Source(modality="audio", path=path, change=MediaChange(gain, 0, clip("a")))
    plain, quiet = (read_audio(item, AudioSettings()) for item in (source, changed))
    np.testing.assert_allclose(quiet, plain * 10**-0.5, atol=1e-5)
    keys = [item.key(lambda path: "content") for item in (source, changed)]
    assert keys[0] != keys[1]


def test_conditions_are_asked_for_by_name_or_by_their_first_word() -> None:
    names = [item.name for item in conditions_of([], ["audio"], ["reverberation", "gain +10 dB"])]
    assert names == ["reverberation 0.3 s", "reverberation 0.6 s", "reverberation 0.9 s", "gain +10 dB"]
    with pytest.raises(UserError, match=r"expected names or first words, of \['noise', .*'missing'\], got \['blur'\]"):
        conditions_of([], ["audio"], ["blur", "noise"])
