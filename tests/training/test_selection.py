"""Which epochs are selected: the best, the last, the best of smoothed scores, or the mean of the last ones."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from emorec.config.schema import ModelConfig
from emorec.training.callbacks.best_weights import mean_weights
from emorec.training.selection import Average, Best, Selection, Smoothed, selection_of

RULES = (Best(), Average(1), Average(3), Smoothed(3), Smoothed(5))
NOISY = dict(enumerate([0.1, 0.2, 0.9, 0.2, 0.5, 0.6, 0.7, 0.6]))


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [(Best(), (2,)), (Average(1), (7,)), (Average(3), (5, 6, 7)), (Smoothed(3), (7,)), (Smoothed(5), (7,))],
    ids=str,
)
def test_each_rule_chooses_its_epochs(rule: Selection, chosen: tuple[int, ...]) -> None:
    assert rule.chosen(NOISY) == chosen


def test_scores_are_smoothed_over_the_epochs_around_each() -> None:
    scores = {**NOISY, 8: 0.0, 9: 0.0}
    assert Smoothed(3).chosen(scores) == (6,)  # 0.6, 0.7, 0.6
    assert Smoothed(5).chosen(scores) == (4,)  # 0.9, 0.2, 0.5, 0.6, 0.7
    assert Smoothed(3).chosen({0: 0.5, 1: 0.5}) == (0,)  # of equal ones the first


def test_epochs_without_finite_results_are_no_neighbours() -> None:
    assert Smoothed(3).chosen({0: 0.3, 4: 0.9, 5: 0.1, 9: 0.6}) == (9,)
    assert Average(3).chosen({0: 0.3, 4: 0.9, 5: 0.1, 9: 0.6}) == (4, 5, 9)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_before_the_first_epoch_there_is_none(rule: Selection) -> None:
    assert rule.chosen({}) == ()


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_what_may_be_chosen_later_is_needed_now(rule: Selection) -> None:
    draw = random.Random(0)
    for _ in range(200):
        epochs = sorted(draw.sample(range(14), draw.randint(1, 14)))
        scores = {epoch: draw.randint(0, 4) / 4 for epoch in epochs}
        kept: set[int] = set()
        for count in range(1, len(epochs) + 1):
            known = {epoch: scores[epoch] for epoch in epochs[:count]}
            kept = (kept | {epochs[count - 1]}) & rule.needed(known)  # what is removed does not come back
            assert kept >= set(rule.chosen(known))
        assert len(kept) <= max(1, len(rule.chosen(scores)), 1 + getattr(rule, "window", 0) // 2)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({}, Best()),
        ({"selection": "last"}, Average(1)),
        ({"selection": "smoothed", "smoothed_over": 5}, Smoothed(5)),
        ({"selection": "average_last_k", "average_last": 4}, Average(4)),
    ],
)
def test_a_config_names_the_rule(settings: dict[str, object], rule: Selection) -> None:
    chosen = selection_of(ModelConfig(hidden=8, dropout=0.0, normalisation="none", **settings))  # type: ignore[arg-type]
    assert type(chosen) is type(rule)
    assert vars(chosen) == vars(rule)


def test_the_mean_of_weights_is_exact_for_one_and_keeps_types(tmp_path: Path) -> None:
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.safetensors")
        weight = torch.full((2,), 0.1) + number
        save_file({"weight": weight, "half": weight.bfloat16(), "batches": torch.tensor(number)}, files[-1])
    mean = mean_weights(files)
    torch.testing.assert_close(mean["weight"], torch.full((2,), 1.1))
    assert (mean["half"].dtype, mean["batches"].tolist()) == (torch.bfloat16, 2)
    assert torch.equal(mean_weights(files[1:2])["weight"], torch.full((2,), 0.1) + 1)
