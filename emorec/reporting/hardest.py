"""The utterances that the runs of a group get most wrong."""

import io
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from emorec.datasets.utterance import Utterance
from emorec.errors import first_line
from emorec.media.audio import AudioSettings, read_audio
from emorec.media.source import MediaError, Source
from emorec.reporting.aggregate import Group
from emorec.reporting.pooled import Pooled

log = logging.getLogger(__name__)

SHOWN = 10
LONGEST = 15.0  # seconds of sound that the page holds


@dataclass(frozen=True)
class Hard:
    """An utterance.

    Attributes:
        target: the true class or value.
        predicted: what most runs predict, or the mean value.
        score: mean probability of the true class, or mean distance from the true value.
        runs: that have it in their split.
        text: transcript, where it is known.
        sound: FLAC, where it can be read; otherwise empty.
    """

    id: str
    speaker: str
    target: str
    predicted: str
    score: float
    runs: int
    text: str = ""
    sound: bytes = b""


def hardest(
    group: Group, pooled: Pooled, utterances: Mapping[str, Utterance] | None, *, count: int = SHOWN
) -> list[Hard]:
    """The utterances whose true class is least probable on average over the runs that have them in their split; of
    regression those that are farthest from their value.

    Args:
        group: of runs.
        pooled: what they predicted.
        utterances: {id: utterance} where the corpus can be reached: their texts and sound are shown.
        count: how many.
    """
    scores: dict[str, list[float]] = defaultdict(list)
    predicted: dict[str, list[float]] = defaultdict(list)
    known: dict[str, tuple[float, str]] = {}
    for run in pooled.runs:
        rows = np.flatnonzero(run.target >= 0 if run.is_classification else np.isfinite(run.target))
        for row in rows:
            name, target = str(run.id[row]), run.target[row]
            score = run.probabilities[row, target] if run.is_classification else abs(run.predicted[row] - target)
            scores[name].append(float(score))
            predicted[name].append(run.predicted[row])
            known[name] = (target, str(run.speaker[row] or ""))
    worst = sorted(scores, key=lambda name: _order(pooled, scores[name]))[:count]
    return [_hard(group, pooled, name, scores[name], predicted[name], known[name], utterances) for name in worst]


def _order(pooled: Pooled, scores: list[float]) -> float:
    mean = float(np.mean(scores))
    return mean if pooled.is_classification else -mean


def _hard(  # noqa: PLR0917
    group: Group,
    pooled: Pooled,
    name: str,
    scores: list[float],
    predicted: list[float],
    known: tuple[float, str],
    utterances: Mapping[str, Utterance] | None,
) -> Hard:
    target, speaker = known
    if pooled.is_classification:
        labels, numbers = group.contest.labels, [int(number) for number in predicted]
        most = max(set(numbers), key=lambda number: (numbers.count(number), -number))
        texts = labels[int(target)], labels[most] if most >= 0 else "nothing"
    else:
        texts = f"{target:.3f}", f"{np.mean(predicted):.3f}"
    utterance = None if utterances is None else utterances.get(name)
    return Hard(
        id=name,
        speaker=speaker,
        target=texts[0],
        predicted=texts[1],
        score=float(np.mean(scores)),
        runs=len(scores),
        text="" if utterance is None else utterance.text or "",
        sound=b"" if utterance is None else _sound(utterance),
    )


def _sound(utterance: Utterance) -> bytes:
    """The beginning of an utterance's sound as FLAC; empty where there is none that can be read."""
    if utterance.audio is None:
        return b""
    import soundfile

    start, end = utterance.segment("audio")
    settings = AudioSettings()
    try:
        waveform = read_audio(Source(modality="audio", path=utterance.audio, start=start, end=end), settings)
    except (MediaError, OSError) as error:
        log.warning("the sound of %s is not shown: %s", utterance.id, first_line(error))
        return b""
    stream = io.BytesIO()
    samples = waveform[: round(LONGEST * settings.sample_rate)].clip(-1, 1)
    soundfile.write(stream, samples, settings.sample_rate, format="FLAC", subtype="PCM_16")
    return stream.getvalue()
