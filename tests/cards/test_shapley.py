"""Shapley values: the axioms that define them."""

import numpy as np
import pytest

from emorec.cards.shapley import shapley_values
from emorec.training.missing import subsets

PLAYERS = ["text", "audio", "video"]


def game(seed: int = 0) -> dict[tuple[str, ...], np.ndarray]:
    generator = np.random.default_rng(seed)
    return {chosen: generator.random((5, 4)) for chosen in [*subsets(PLAYERS), ()]}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_shares_add_up_to_the_output(count: int) -> None:
    players = PLAYERS[:count]
    worth = {chosen: value for chosen, value in game().items() if set(chosen) <= set(players)}
    shares = shapley_values(worth, players)
    np.testing.assert_allclose(sum(shares.values()), worth[tuple(players)] - worth[()], atol=1e-12)


def test_a_modality_that_changes_nothing_has_no_share_and_equal_ones_have_equal_shares() -> None:
    worth = {
        chosen: np.full((2, 2), float("text" in chosen or "audio" in chosen)) for chosen in [*subsets(PLAYERS), ()]
    }
    shares = shapley_values(worth, PLAYERS)
    assert np.array_equal(shares["video"], np.zeros((2, 2)))
    np.testing.assert_allclose(shares["text"], 0.5)
    np.testing.assert_allclose(shares["audio"], 0.5)


def test_shares_are_the_mean_over_the_orders_in_which_modalities_come() -> None:
    from itertools import permutations

    worth, total = game(1), np.zeros((5, 4))
    orders = list(permutations(PLAYERS))
    for order in orders:
        before = order[: order.index("audio")]
        after = tuple(name for name in PLAYERS if name in (*before, "audio"))
        total += worth[after] - worth[tuple(name for name in PLAYERS if name in before)]
    np.testing.assert_allclose(shapley_values(worth, PLAYERS)["audio"], total / len(orders))
