"""Utterances are mixed with partners that depend on which utterances a batch has, and their targets alike."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from scipy.stats import beta
from torch import Tensor

from emorec.augmentation.mixup import Mixing, Mixup
from emorec.batch import Batch
from tests.augmentation.conftest import draws
from tests.models.test_emotion_model import TASK, make_batch, make_model

COUNT = 9


def mixing(partner: list[int], share: float = 0.75) -> Mixing:
    return Mixing(torch.tensor(share), torch.tensor(partner))


def test_everyone_has_another_partner_and_the_order_of_the_batch_does_not_matter() -> None:
    draw, order = draws(COUNT), torch.tensor([3, 1, 0, 8, 2, 7, 6, 4, 5])
    first, second = Mixup(0.4)(draw), Mixup(0.4)(draw[order])
    assert sorted(first.partner.tolist()) == list(range(COUNT))
    assert (first.partner != torch.arange(COUNT)).all()
    assert torch.equal(draw[order][second.partner], draw[first.partner][order])
    assert torch.equal(first.share, second.share)
    later = Mixup(0.4)(draws(COUNT, epoch=1))
    assert not torch.equal(first.share, later.share)
    assert not torch.equal(first.partner, later.partner)


def test_one_utterance_is_its_own_partner() -> None:
    assert Mixup(1.0)(draws(1)).partner.tolist() == [0]


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 4.0])
def test_shares_have_the_distribution_that_is_asked_for(alpha: float) -> None:
    mixup = Mixup(alpha)
    shares = torch.stack([mixup(draw[None]).share for draw in draws(2000)]).double()
    assert (shares >= 0.5).all()
    assert (shares <= 1).all()
    for level in (0.6, 0.75, 0.9, 0.99):
        expected = beta.cdf(level, alpha, alpha) - beta.cdf(1 - level, alpha, alpha)
        assert float((shares <= level).double().mean()) == pytest.approx(expected, abs=0.035)


def test_inputs_are_mixed_and_what_is_missing_counts_as_zero() -> None:
    values = torch.tensor([[1, 2, 3], [4, 9, 9], [8, 8, 8]], dtype=torch.int16)[:, :, None]
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    mixture, mixed_mask, present = mixing([1, 2, 0]).inputs(values, mask, torch.tensor([True, True, False]))
    expected = torch.tensor([[0.75 + 1.0, 1.5, 2.25], [3.0, 0, 0], [0.25, 0.5, 0.75]])[:, :, None]
    torch.testing.assert_close(mixture, expected)
    assert mixed_mask.tolist() == [[True, True, True], [True, False, False], [True, True, True]]
    assert present.tolist() == [True, True, True]


def test_the_loss_between_classes_is_that_of_both_by_their_shares() -> None:
    batch, model = make_batch(4), make_model(dropout=0.0)
    output, pairs = model(batch), mixing([1, 2, 3, 0])
    actual = pairs.loss(partial(model._total_loss, output), batch, TASK)
    other = replace(batch, targets={TASK: batch.targets[TASK][pairs.partner]})
    expected = 0.75 * model._total_loss(output, batch) + 0.25 * model._total_loss(output, other)
    torch.testing.assert_close(actual, expected)


def test_values_are_mixed_where_both_are_known() -> None:
    batch = make_batch(4)
    target, known = torch.tensor([1.0, 2.0, torch.nan, -1.0]), torch.tensor([True, True, False, True])
    batch = replace(batch, targets={TASK: target}, target_mask={TASK: known})
    seen: list[Batch] = []

    def remember(mixed: Batch) -> Tensor:
        seen.append(mixed)
        return torch.zeros(())

    mixing([1, 2, 3, 0]).loss(remember, batch, TASK)
    (mixed,) = seen
    assert mixed.target_mask[TASK].tolist() == [True, False, False, True]
    torch.testing.assert_close(mixed.targets[TASK][[0, 3]], torch.tensor([1.25, -0.5]))


def test_a_model_mixes_in_training_steps_only() -> None:
    batch = replace(make_batch(6), draw=draws(6))
    plain, mixing_model = make_model(dropout=0.0), make_model(dropout=0.0, mixup=Mixup(1.0))
    assert mixing_model.training_step(batch, 0).item() != plain.training_step(batch, 0).item()
    pairs = mixing_model.mixup(batch.draw)
    values, *_ = pairs.inputs(
        mixing_model.normalisation["text"](batch.features["text"]), batch.mask["text"], batch.present["text"]
    )
    inputs: list[Tensor] = []
    mixing_model.projection["text"].register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    mixing_model.training_step(batch, 1)
    torch.testing.assert_close(inputs[0], values)
    expected, actual = plain.predict([batch]), mixing_model.predict([batch])
    assert torch.equal(actual.logits, expected.logits)
    assert actual.scores == expected.scores
    assert mixing_model.components().keys() == plain.components().keys()
