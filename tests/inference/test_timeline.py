"""Timelines are smoothed by the formulas that are named, and written as subtitles and pictures."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from emorec.datasets.utterance import Task
from emorec.errors import UserError
from emorec.inference.prediction import Prediction, prediction_of
from emorec.inference.timeline import Smoother, Timeline, check_smoother, ema, hmm, smoothed, without_repeated_gaps
from emorec.inference.timeline_files import PICTURES, SUBTITLES, cues, destination, write_plot, write_subtitles

MOODS = Task(name="emotion", labels=("happy", "sad", "a<b & $c$"))
VALUES = Task(name="valence", labels=("valence",), kind="regression")


def prediction(start: float, end: float, probabilities: list[float] | None, task: Task = MOODS) -> Prediction:
    item = Prediction("talk.wav", None, {}, ("audio",), {}, start=start, end=end)
    return item if probabilities is None else prediction_of(item, task, probabilities)


def timeline(rows: list[list[float] | None], *, window: float = 3.0, hop: float = 1.0, task: Task = MOODS) -> Timeline:
    items = [prediction(number * hop, number * hop + window, row, task) for number, row in enumerate(rows)]
    return Timeline(id="talk.wav", predictions=tuple(items))


@pytest.fixture
def probabilities() -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(3), size=5)


TIMES = np.array([0.0, 1.0, 1.5, 4.0, 5.0])


def test_a_moving_average_forgets_exponentially(probabilities: np.ndarray) -> None:
    expected = probabilities[0]
    result = ema(probabilities, TIMES, 2.0)
    for number in range(1, 5):
        kept = np.exp(-(TIMES[number] - TIMES[number - 1]) / 2.0)
        expected = kept * expected + (1 - kept) * probabilities[number]
        np.testing.assert_allclose(result[number], expected)
    np.testing.assert_allclose(ema(probabilities, TIMES, 1e-9), probabilities)


def test_a_hidden_markov_model_sums_over_all_paths(probabilities: np.ndarray) -> None:
    marginals = np.zeros((5, 3))
    for path in itertools.product(range(3), repeat=5):
        weight = np.prod([probabilities[number, state] for number, state in enumerate(path)])
        for number in range(1, 5):
            stay = np.exp(-(TIMES[number] - TIMES[number - 1]) / 2.0)
            weight *= stay * (path[number] == path[number - 1]) + (1 - stay) / 3
        for number, state in enumerate(path):
            marginals[number, state] += weight
    np.testing.assert_allclose(hmm(probabilities, TIMES, 2.0), marginals / marginals.sum(1, keepdims=True))


@pytest.mark.parametrize("smoother", ["ema", "hmm"])
def test_a_single_window_that_disagrees_is_overruled_and_gaps_stay(smoother: Smoother) -> None:
    happy, sad = [0.8, 0.1, 0.1], [0.3, 0.6, 0.1]
    rough = timeline([happy, happy, None, sad, happy, happy])
    smooth = smoothed(rough, MOODS, smoother, 3.0)
    assert [item.predicted for item in smooth.predictions] == ["happy", "happy", None, "happy", "happy", "happy"]
    for item in smooth.predictions:
        assert sum(item.probabilities.values()) == pytest.approx(1.0 if item.predicted else 0.0)
    assert smoothed(rough, MOODS, "none", 3.0) is rough


def test_values_are_averaged_and_have_no_states() -> None:
    rough = timeline([[0.0], [1.0]], task=VALUES)
    assert smoothed(rough, VALUES, "ema", 1.0).predictions[1].predicted == pytest.approx(1 - np.exp(-1))
    with pytest.raises(UserError, match=r"smoothing\.method: expected ema for a task of regression, got hmm"):
        check_smoother(VALUES, "hmm")


def test_a_recording_without_any_prediction_stays_as_it_is() -> None:
    nothing = timeline([None, None])
    assert smoothed(nothing, MOODS, "hmm", 1.0) == nothing
    assert cues(nothing) == []


def test_neighbours_without_a_prediction_for_one_reason_are_one_row() -> None:
    happy = [0.8, 0.1, 0.1]
    joined = without_repeated_gaps(timeline([happy, None, None, happy, None]).predictions)
    assert [(item.start, item.end) for item in joined] == [(0, 3), (1, 5), (3, 6), (4, 7)]


def test_cues_meet_in_the_middle_of_what_segments_share() -> None:
    happy, sad = [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]
    assert cues(timeline([happy, happy, sad, sad])) == [(0.0, 3.0, "happy"), (3.0, 6.0, "sad")]
    apart = timeline([happy, sad], window=1.0, hop=2.0)
    assert cues(apart) == [(0.0, 1.0, "happy"), (2.0, 3.0, "sad")]
    assert cues(timeline([[0.25]], task=VALUES)) == [(0.0, 3.0, "0.25")]


def test_subtitles_are_web_vtt(tmp_path: Path) -> None:
    long = Timeline(
        id="talk.wav",
        predictions=(prediction(0, 3599.9996, [0.8, 0.1, 0.1]), prediction(3661.5, 3663, [0.1, 0.1, 0.8])),
    )
    write_subtitles(long, MOODS, tmp_path / "new" / "a.vtt")
    assert (tmp_path / "new" / "a.vtt").read_text() == (
        "WEBVTT\n\n00:00:00.000 --> 01:00:00.000\nhappy\n\n01:01:01.500 --> 01:01:03.000\na&lt;b &amp; $c$\n"
    )


@pytest.mark.parametrize("suffix", PICTURES)
def test_a_timeline_is_drawn(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write_plot(timeline([[0.8, 0.1, 0.1], None, [0.1, 0.8, 0.1]]), MOODS, path)
    assert path.stat().st_size > 1000
    assert path.read_bytes()[:4] == {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xm"}[suffix]


def test_values_and_nothing_are_drawn_too(tmp_path: Path) -> None:
    write_plot(timeline([[0.2], [0.4]], task=VALUES), VALUES, tmp_path / "values.png")
    write_plot(timeline([None]), MOODS, tmp_path / "nothing.png")
    assert len(list(tmp_path.iterdir())) == 2


def test_files_of_several_recordings_lie_in_a_folder_and_never_outside(tmp_path: Path) -> None:
    names = ["a/talk.mp4", "../../b.wav", "/etc/passwd"]
    target = destination(str(tmp_path), SUBTITLES, names, "subtitles")
    expected = [tmp_path / "a/talk.mp4.vtt", tmp_path / "b.wav.vtt", tmp_path / "etc/passwd.vtt"]
    assert [target.of(name) for name in names] == expected
    assert target.of("..") == tmp_path / "recording.vtt"
    with pytest.raises(UserError, match="subtitles: expected a file for each recording, got several for"):
        destination(str(tmp_path), SUBTITLES, ["x.mp4", "../x.mp4"], "subtitles")
    single = destination(str(tmp_path / "x.PDF"), PICTURES, ["a"], "plot")
    assert single.of("a") == tmp_path / "x.PDF"
    with pytest.raises(UserError, match="subtitles: expected a folder for 3 recordings, got the file"):
        destination("a.vtt", SUBTITLES, names, "subtitles")
    with pytest.raises(UserError, match=r"plot: expected a folder, or a file that ends in \.png, \.pdf, \.svg"):
        destination("a.gif", PICTURES, names[:1], "plot")
