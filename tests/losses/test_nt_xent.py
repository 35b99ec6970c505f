"""NT-Xent against values computed by hand and a loop over pairs; what a loss of views makes of a batch."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from emorec.batch import Batch
from emorec.draws import keys_of
from emorec.errors import UserError
from emorec.losses.loss import ViewLoss
from emorec.losses.nt_xent import nt_xent
from tests.losses.test_every_loss import TASK, example, make

COUNT, DIM = 5, 7


def pairs(count: int = COUNT, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, count, DIM, generator=generator)
    return first, second


def by_loop(first: Tensor, second: Tensor, temperature: float) -> float:
    """Equation 1 of Chen et al. 2020, for each of both views of each utterance, in double precision."""
    rows = [row.double() for row in (*first, *second)]

    def alike(a: int, b: int) -> float:
        return math.exp(float(rows[a] @ rows[b] / rows[a].norm() / rows[b].norm()) / temperature)

    count, total = len(first), 0.0
    for row in range(2 * count):
        others = [other for other in range(2 * count) if other != row]
        total -= math.log(alike(row, (row + count) % (2 * count)) / sum(alike(row, other) for other in others))
    return total / (2 * count)


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
def test_it_equals_a_loop_over_pairs(count: int, temperature: float) -> None:
    value = nt_xent(*pairs(count), temperature)
    assert float(value) == pytest.approx(by_loop(*pairs(count), temperature), rel=1e-5)


def test_orthogonal_utterances_with_equal_views_give_the_value_computed_by_hand() -> None:
    views = torch.tensor([[1.0, 0.0], [0.0, 5.0]])  # lengths do not count
    value = nt_xent(views, views, 0.5)
    assert float(value) == pytest.approx(-2 + math.log(math.exp(2) + 2))  # one cosine of 1, two of 0


def test_views_of_one_utterance_that_are_like_the_other_give_the_value_computed_by_hand() -> None:
    first, second = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert float(nt_xent(first, second, 1.0)) == pytest.approx(math.log(2 + math.e))  # two cosines of 0, one of 1


def test_one_utterance_has_nothing_to_be_told_from() -> None:
    first, second = (view.requires_grad_() for view in pairs(1))
    value = nt_xent(first, second, 0.1)
    value.backward()
    assert value == 0
    assert first.grad is not None
    assert (first.grad == 0).all()


def test_at_a_high_temperature_all_are_alike_and_at_a_low_one_only_the_most_similar_counts() -> None:
    first, second = pairs()
    assert float(nt_xent(first, second, 1e6)) == pytest.approx(math.log(2 * COUNT - 1), rel=1e-4)
    assert float(nt_xent(first, first + 1e-3 * second, 1e-3)) == pytest.approx(0, abs=1e-6)
    opposite = nt_xent(first[:2], -first[:2], 1e-3)
    assert float(opposite) > 500
    assert opposite.isfinite()


def test_neither_the_order_of_views_nor_that_of_utterances_matters() -> None:
    first, second = pairs()
    order = torch.tensor([3, 0, 4, 1, 2])
    value = nt_xent(first, second, 0.2)
    torch.testing.assert_close(nt_xent(second, first, 0.2), value)
    torch.testing.assert_close(nt_xent(first[order], second[order], 0.2), value)
    assert not torch.allclose(nt_xent(first, second[order], 0.2), value)


def test_a_step_down_the_slope_costs_less_and_every_embedding_has_a_gradient() -> None:
    first, second = (view.requires_grad_() for view in pairs())
    value = nt_xent(first, second, 0.2)
    slopes = torch.autograd.grad(value, (first, second))
    assert all(bool((slope.abs().sum(1) > 0).all()) for slope in slopes)
    moved = [view - 0.1 * slope for view, slope in zip((first, second), slopes, strict=True)]
    assert nt_xent(*moved, 0.2) < value  # type: ignore[call-arg]


def test_embeddings_of_zero_leave_loss_and_gradient_finite() -> None:
    first = torch.zeros(3, DIM, requires_grad=True)
    value = nt_xent(first, torch.zeros(3, DIM), 0.1)
    value.backward()
    assert value.item() == pytest.approx(math.log(5))
    assert first.grad is not None
    assert first.grad.isfinite().all()


def test_it_is_computed_in_float32_under_autocast() -> None:
    expected = nt_xent(*pairs(), 0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nt_xent(*pairs(), 0.01), expected)


# --------------------------------------------------------------------------------------------- as a loss


def loss_of_views() -> ViewLoss:
    loss = make("nt_xent")
    assert isinstance(loss, ViewLoss)
    return loss


def drawn(batch: Batch) -> Tensor:
    """(2, B) draws of the views that the loss makes of a batch."""
    draw = loss_of_views().views(batch).draw
    assert draw is not None
    return draw.view(2, -1)


def test_the_model_reads_every_utterance_twice_with_other_draws() -> None:
    _, batch = example([0, 1, 3])
    batch = replace(batch, draw=torch.tensor([5, -7, 1 << 60]))
    views = loss_of_views().views(batch)
    assert views.id == batch.id * 2
    assert torch.equal(views.features["text"], batch.features["text"].repeat(2, 1, 1))
    assert torch.equal(views.present["text"], batch.present["text"].repeat(2))
    first, second = drawn(batch)
    assert torch.equal(first, torch.tensor([5, -7, 1 << 60]))
    assert len({*first.tolist(), *second.tolist()}) == 6


def test_views_in_evaluation_depend_on_the_id_alone() -> None:
    _, batch = example([0, 1, 3])
    _, longer = example([3, 1, 0, 2])  # the same ids, and one more
    assert torch.equal(drawn(batch), drawn(longer)[:, :3])
    assert torch.equal(drawn(batch)[0], keys_of(batch.id))


def test_targets_are_not_read() -> None:
    loss, (output, batch) = loss_of_views(), example([0, 1, 3, 0])
    expected = loss(output, batch)["nt_xent"]
    torch.testing.assert_close(expected, nt_xent(*output.logits[TASK].chunk(2), loss.temperature))
    without = replace(batch, targets={}, target_mask={})
    assert torch.equal(loss(output, without)["nt_xent"], expected)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(UserError, match=r"loss\.temperature: expected"):
        make("nt_xent", temperature=0.0)
