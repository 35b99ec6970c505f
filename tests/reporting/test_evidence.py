"""Intervals and tests of groups, over seeds and folds, from what their runs have stored."""

import numpy as np
import pytest

from emorec.reporting.evidence import Evidence, Samples
from emorec.reporting.samples import Sample
from emorec.runs.stored_predictions import StoredPredictions
from tests.reporting.run_directories import Answers, answers


def sample(own: Answers) -> Sample:
    count = len(own.id)
    nobody = np.full(count, None, dtype=object)
    origins = {name: np.array(own.origins[name], dtype=object) if name in own.origins else nobody for name in UNITS}
    return Sample.of(
        StoredPredictions(
            id=np.array(own.id, dtype=object),
            target=own.target,
            predicted=own.predicted,
            probabilities=np.full((count, 2), 0.5, np.float32),
            **origins,
        )
    )


UNITS = ("speaker", "dialogue")
FOLDS = {fold: range(4 * fold, 4 * fold + 4) for fold in range(3)}


def test_a_group_is_the_mean_over_folds_of_the_mean_over_their_seeds() -> None:
    group: Samples = {
        fold: [sample(answers(accuracy, speakers=speakers)) for accuracy in (0.5, 0.8)][: 2 if fold else 1]
        for fold, speakers in FOLDS.items()
    }
    evidence = Evidence.of([group])
    assert evidence is not None
    score = evidence.resampled(group)["uar"]
    of_folds = [np.mean([item.scores["uar"] for item in of_fold]) for of_fold in group.values()]
    assert score.value == pytest.approx(np.mean(of_folds))
    assert score.draws.mean() == pytest.approx(score.value, abs=0.01)
    assert evidence.clusters == "12 speakers"
    interval = evidence.interval("uar", score)
    assert interval is not None
    assert interval.low < score.value < interval.high


def test_speakers_are_drawn_together_where_folds_share_their_test_split() -> None:
    one = sample(answers(0.6))
    shared, single = {fold: [one] for fold in range(3)}, {None: [one]}
    evidence, alone = Evidence.of([shared]), Evidence.of([single])
    assert evidence is not None
    assert alone is not None
    assert evidence.clusters == alone.clusters == "6 speakers"
    assert evidence.resampled(shared)["uar"].draws == pytest.approx(alone.resampled(single)["uar"].draws)


def test_dialogues_come_before_speakers_and_can_be_chosen_otherwise() -> None:
    own = answers(0.6)
    both = Answers(own.id, own.target, own.predicted, {**own.origins, "dialogue": [name[:2] for name in own.id]})
    group: Samples = {None: [sample(both)]}
    assert [Evidence.of([group], unit).clusters for unit in (None, "speaker", "utterance")] == [  # type: ignore[union-attr]
        "6 dialogues",
        "6 speakers",
        "72 utterances",
    ]


def test_intervals_over_utterances_are_the_narrower_ones() -> None:
    group: Samples = {None: [sample(answers(0.6, speakers=range(20)))]}
    widths = {}
    for unit in ("speaker", "utterance"):
        evidence = Evidence.of([group], unit)
        assert evidence is not None
        low, high = evidence.interval("uar", evidence.resampled(group)["uar"]) or (0, 0)
        widths[unit] = high - low
    assert widths["utterance"] < 0.8 * widths["speaker"]


def test_predictions_of_older_runs_take_the_speakers_of_others() -> None:
    old, new = sample(answers(0.5, unit="utterance")), sample(answers(0.8))
    assert Evidence.of([{None: [old]}]).clusters == "72 utterances"  # type: ignore[union-attr]
    evidence = Evidence.of([{None: [old]}, {None: [new]}])
    assert evidence is not None
    assert evidence.clusters == "6 speakers"
    named = evidence.resampled({None: [sample(answers(0.5))]})["uar"].draws
    assert (evidence.resampled({None: [old]})["uar"].draws == named).all()


def test_folds_are_drawn_where_each_tests_one_speaker() -> None:
    group: Samples = {fold: [sample(answers(0.6, speakers=range(fold, fold + 1)))] for fold in range(5)}
    evidence = Evidence.of([group])
    assert evidence is not None
    assert evidence.clusters == "5 folds"
    score = evidence.resampled(group)["uar"]
    values = [items[0].scores["uar"] for items in group.values()]
    assert score.draws.std() == pytest.approx(np.std(values) / np.sqrt(5), rel=0.03)


def test_one_speaker_alone_has_no_interval() -> None:
    evidence = Evidence.of([{None: [sample(answers(0.6, speakers=range(1)))]}])
    assert evidence is not None
    assert not evidence.is_defined


def test_a_group_that_lacks_a_fold_or_a_finite_prediction_has_no_resamples() -> None:
    group: Samples = {fold: [sample(answers(0.6, speakers=speakers))] for fold, speakers in FOLDS.items()}
    evidence = Evidence.of([group])
    assert evidence is not None
    assert evidence.resampled({0: group[0]}) == {}
    own = answers(0.6, speakers=FOLDS[0])
    broken = sample(Answers(own.id, own.target, np.where(np.arange(len(own.id)) == 3, -1, own.predicted), own.origins))
    assert evidence.resampled({**group, 0: [broken]}) == {}
    assert evidence.resampled({**group, 0: [sample(answers(0.6, speakers=range(3)))]}) == {}, "other utterances"
    assert Evidence.of([{}]) is None


def test_the_difference_of_groups_is_that_of_the_same_draws() -> None:
    first, second = ({None: [sample(answers(accuracy, speakers=range(20)))]} for accuracy in (0.5, 0.8))
    evidence = Evidence.of([first, second])
    assert evidence is not None
    ours, theirs = evidence.resampled(second)["uar"], evidence.resampled(first)["uar"]
    value, interval, p = evidence.difference(ours, theirs)
    assert value == ours.value - theirs.value > 0.2
    assert interval is not None
    assert 0 < interval.low < value < interval.high
    # the same speakers are hard for both, so the paired difference is surer than that of two independent groups
    assert (interval.high - interval.low) < sum(
        high - low for low, high in (evidence.interval("uar", score) or (0, 0) for score in (ours, theirs))
    )
    assert p < 0.001
    assert evidence.difference(ours, ours)[2] == 1
