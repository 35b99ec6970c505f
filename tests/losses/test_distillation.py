"""Losses that compare with a teacher: against plain loops, their gradients, and rows without a teacher."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emorec.batch import IGNORED
from emorec.errors import UserError
from emorec.losses.distillation import (
    DIST,
    KD,
    DistillationLoss,
    FeatureKD,
    OnePass,
    correlation_distance,
    soft_divergence,
)
from tests.losses.test_every_loss import TASK, example, gradient
from tests.losses.test_representation import softmax

TEMPERATURE = 3.0


def logits(rows: int, seed: int, classes: int = 4) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft(row: Tensor) -> list[float]:
    return softmax([float(value) / TEMPERATURE for value in row])


def slow_divergence(own: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for first, second in zip(own, teacher, strict=True):
        total += sum(p * math.log(p / q) for p, q in zip(soft(second), soft(first), strict=True))
    return TEMPERATURE**2 * total / len(own)


def pearson(first: list[float], second: list[float]) -> float:
    return float(np.corrcoef(first, second)[0, 1])


def slow_correlations(own: Tensor, teacher: Tensor, *, between: float, within: float) -> float:
    first, second = [soft(row) for row in own], [soft(row) for row in teacher]
    rows = [pearson(one, other) for one, other in zip(first, second, strict=True)]
    loss = between * (1 - sum(rows) / len(rows))
    if len(own) > 1:
        columns = [pearson(list(one), list(other)) for one, other in zip(zip(*first), zip(*second), strict=True)]  # noqa: B905
        loss += within * (1 - sum(columns) / len(columns))
    return TEMPERATURE**2 * loss


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_losses_equal_their_formulas(rows: int) -> None:
    own, teacher = logits(rows, 0), logits(rows, 1)
    assert float(soft_divergence(own, teacher, TEMPERATURE)) == pytest.approx(slow_divergence(own, teacher), abs=1e-8)
    value = correlation_distance(own, teacher, temperature=TEMPERATURE, between=0.7, within=1.3)
    assert float(value) == pytest.approx(slow_correlations(own, teacher, between=0.7, within=1.3), abs=1e-8)


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_gradients_are_those_of_the_values(rows: int) -> None:
    own, teacher = logits(rows, 0).requires_grad_(), logits(rows, 1)
    assert torch.autograd.gradcheck(lambda values: soft_divergence(values, teacher, TEMPERATURE), own)
    assert torch.autograd.gradcheck(
        lambda values: correlation_distance(values, teacher, temperature=2.0, between=1.0, within=1.0), own
    )


def test_the_teachers_own_predictions_cost_nothing() -> None:
    own = logits(5, 0)
    assert float(soft_divergence(own, own, TEMPERATURE)) == pytest.approx(0, abs=1e-12)
    assert float(correlation_distance(own, own + 3, temperature=1.0, between=1.0, within=1.0)) == pytest.approx(0)


def test_each_modality_is_a_student_on_the_utterances_that_have_it() -> None:
    output, batch = taught([0, 1, 3, IGNORED], absent=(1,))
    own = {name: logits(4, seed) for seed, name in enumerate(("text", "audio", "video"))}
    present = {"text": torch.ones(4, dtype=torch.bool), "audio": torch.tensor([True, True, False, True])}
    output = replace(output, fusion=replace(output.fusion, logits=own))
    batch = replace(batch, present={**present, "video": torch.zeros(4, dtype=torch.bool)})
    loss = OnePass(task=TASK, modalities=list(own), temperature=TEMPERATURE, imitation=0.5)

    def of_student(name: str, labelled: list[int], imitating: list[int]) -> float:
        entropy = sum(
            math.log(sum(map(math.exp, own[name][row].tolist()))) - float(own[name][row, target])
            for row, target in zip(labelled, [0, 1, 3], strict=False)
        )
        rows = torch.tensor(imitating)
        return entropy / len(labelled) + 0.5 * slow_divergence(own[name][rows], batch.teacher["logits"][rows])

    expected = (of_student("text", [0, 1, 2], [0, 2, 3]) + of_student("audio", [0, 1], [0, 3])) / 3
    assert float(loss(output, batch)["one_pass"]) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(UserError, match="students: expected modalities of the run, text, got audio"):
        OnePass(task=TASK, modalities=["text"], students=["audio"])


LOSSES: list[type[DistillationLoss]] = [KD, DIST, FeatureKD]


def taught(targets: list[int], absent: tuple[int, ...] = (), width: int = 5) -> tuple[Any, Any]:
    output, batch = example(targets)
    teacher = {"logits": logits(len(targets), 3).float(), "fused": logits(len(targets), 4, width).float()}
    for values in teacher.values():
        values[list(absent)] = torch.nan
    return output, replace(batch, teacher=teacher)


@pytest.mark.parametrize("kind", LOSSES)
def test_utterances_without_a_teacher_do_not_count(kind: type[DistillationLoss]) -> None:
    output, batch = taught([0, 1, 3, 1], absent=(1,))
    kept = torch.tensor([0, 2, 3])
    few = replace(output, logits={TASK: output.logits[TASK][kept]})
    few = replace(few, fusion=replace(output.fusion, fused=output.fusion.fused[kept]))
    torch.testing.assert_close(kind(task=TASK)(output, batch), kind(task=TASK)(few, batch.taken(kept)))


@pytest.mark.parametrize("kind", LOSSES)
def test_without_any_teacher_nothing_is_lost(kind: type[DistillationLoss]) -> None:
    for output, batch in (example([0, 1]), taught([0, 1], absent=(0, 1))):
        (value,) = kind(task=TASK)(output, batch).values()
        assert float(value) == 0


def test_logits_are_drawn_to_the_teachers() -> None:
    output, batch = taught([0, 1, 3])
    loss = KD(task=TASK)
    loss.total(loss(output, batch)).backward()
    closer = output.logits[TASK].detach() - 0.1 * gradient(output)
    moved = replace(output, logits={TASK: closer})
    assert loss(moved, batch)["kd"] < loss(output, batch)["kd"]
    assert KD.trains_head
    assert not FeatureKD.trains_head
    assert DIST.needs_teacher
