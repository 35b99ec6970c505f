"""Intervals cover, tests keep their level, and corrections are those of the textbooks."""

import math

import numpy as np
import pytest
from scipy import stats

from emorec.reporting.statistics import Resampling, cohens_dz, holm, smallest_p, wilcoxon
from tests.reporting.studies import RAVDESS, SEVERAL_FOLDS, Design, share_that_covers, share_that_rejects

# ------------------------------------------------------------------------------------------- resampling


def one_stratum(clusters: int, **options: int) -> Resampling:
    return Resampling(np.zeros(clusters, np.int64), **options)


def test_the_interval_of_a_mean_is_that_of_students_t() -> None:
    values = np.random.default_rng(0).normal(size=12)
    resampling = one_stratum(12)
    means = resampling.resampled(values[:, None])[0] / 12
    expected = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values))
    assert resampling.interval(values.mean(), means) == pytest.approx(expected, rel=0.02)
    assert resampling.p_value(values.mean(), means) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=0.05)


def test_every_draw_has_as_many_clusters_of_each_stratum_as_there_are() -> None:
    strata = np.array([0, 0, 0, 1, 1, 0])
    resampling = Resampling(strata, draws=50)
    members = np.stack([strata == 0, strata == 1], 1).astype(float)
    assert resampling.resampled(members).tolist() == [[4] * 50, [2] * 50]
    assert resampling.degrees_of_freedom == 4


def test_some_clusters_are_drawn_as_among_all() -> None:
    sums = np.random.default_rng(0).integers(9, size=(6, 3)).astype(float)
    resampling = one_stratum(6, draws=30)
    rows = np.array([1, 4])
    rest = sums.copy()
    rest[[0, 2, 3, 5]] = 0
    assert (resampling.resampled(sums[rows], rows) == resampling.resampled(rest)).all()


def test_draws_depend_on_the_seed_alone() -> None:
    sums = np.arange(5.0)[:, None]
    first, again, other = (one_stratum(5, draws=20, seed=seed).resampled(sums) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_clusters_of_unequal_sizes_are_worth_fewer() -> None:
    strata = np.zeros(4, np.int64)
    assert Resampling(strata, np.array([5.0, 5, 5, 5])).degrees_of_freedom == 3
    # 16² / (10² + 3 · 2²)
    assert Resampling(strata, np.array([10.0, 2, 2, 2])).degrees_of_freedom == pytest.approx(256 / 112 - 1)


def test_one_cluster_alone_has_no_interval() -> None:
    assert one_stratum(2).is_defined
    assert not one_stratum(1).is_defined
    assert not Resampling(np.array([0, 0, 1])).is_defined
    assert not one_stratum(0).is_defined


def test_a_metric_stays_within_its_bounds() -> None:
    resampling = one_stratum(2)
    means = resampling.resampled(np.array([[0.2], [0.9]]))[0] / 2
    assert resampling.interval(0.55, means, low=0, high=1) == (0, 1)


def test_equal_systems_do_not_differ_and_the_same_difference_everywhere_is_a_sign_test() -> None:
    resampling = one_stratum(5)
    nothing, always = np.zeros(10_000), np.full(10_000, 0.1)
    assert resampling.p_value(0.0, nothing) == 1
    assert resampling.p_value(0.1, always) == 2 / 2**5
    assert resampling.interval(0.1, always) is None


@pytest.mark.parametrize(("design", "seed"), [(RAVDESS, 1), (SEVERAL_FOLDS, 2)])
def test_intervals_cover_and_tests_keep_their_level(design: Design, seed: int) -> None:
    """A few studies with wide bounds; `python -m tests.benchmarks statistics` has 500."""
    assert 0.87 <= share_that_covers(design, studies=100, draws=400, seed=seed) <= 1
    assert share_that_rejects(design, studies=100, draws=400, seed=seed) <= 0.12


def test_intervals_over_utterances_would_be_too_narrow() -> None:
    assert share_that_covers(RAVDESS, studies=60, draws=300, seed=3, by_utterance=True) < 0.8


# ------------------------------------------------------------------------------------------ other tests


def test_holm_equals_the_known_values() -> None:
    # as the multipletests of statsmodels has them
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2, 0.9, 0.6]) == pytest.approx([0.6, 1.0, 1.0])
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([]) == []


def test_wilcoxon_equals_scipy_and_says_what_so_many_pairs_can_reach() -> None:
    differences = [0.02, 0.01, 0.05, -0.003, 0.04, 0.07, 0.03, 0.011]
    test = wilcoxon(differences)
    assert test.p == stats.wilcoxon(differences).pvalue == pytest.approx(4 / 256)
    assert (test.pairs, test.smallest, test.can_be_significant) == (8, 2 / 2**8, True)


def test_five_pairs_cannot_be_significant() -> None:
    test = wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5])
    assert test.p == test.smallest == 0.0625
    assert not test.can_be_significant
    assert smallest_p(6) < 0.05


def test_runs_that_do_not_differ_have_a_p_of_1() -> None:
    assert wilcoxon([0.0, 0.0, 0.0]).p == 1
    assert wilcoxon([]).p == 1


def test_the_effect_is_the_mean_in_standard_deviations() -> None:
    assert cohens_dz([1.0, 2.0, 3.0]) == pytest.approx(2.0)
    assert cohens_dz([0.5]) is None
    assert cohens_dz([0.5, 0.5, 0.5]) is None
    assert math.isclose(cohens_dz([-1.0, -2.0, -3.0]) or 0, -2.0)
