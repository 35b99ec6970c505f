"""Losses of vectors: against plain loops written from their formulas, their gradients, and batches without pairs."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from emorec.batch import IGNORED, FusionOutput
from emorec.config.instantiation import instantiate
from emorec.errors import UserError
from emorec.losses.cross_modal import CMCL, SimSiam, negative_cosine, relational_divergence
from emorec.losses.loss import Loss
from emorec.losses.prototypes import APCL, SPCL, decoupled_contrast, orthonormal, prototype_contrast
from emorec.losses.representation import RepresentationLoss
from emorec.losses.supcon import supervised_contrastive
from tests.discovery import node
from tests.losses.test_every_loss import TASK, example

HIDDEN, CLASSES, TEMPERATURE = 6, 3, 0.3
TARGETS = {
    "mixed": [0, 1, 0, 2, 1, 0],
    "one class": [1, 1, 1],
    "no pair": [0, 1, 2],
    "one utterance": [2],
    "some alone": [0, 0, 1],
}
MODALITIES = ("text", "audio", "video")


@pytest.fixture(params=TARGETS.values(), ids=TARGETS)
def target(request: pytest.FixtureRequest) -> Tensor:
    return torch.tensor(request.param)


def vectors_of(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, HIDDEN, generator=generator, dtype=torch.float64)


def cosine(first: Tensor, second: Tensor) -> float:
    return float(first @ second / first.norm() / second.norm())


def prototypes() -> Tensor:
    return vectors_of(CLASSES, seed=9)


# Formulas, term by term.


def slow_supcon(vectors: Tensor, target: Tensor) -> float:
    terms = []
    for anchor in range(len(vectors)):
        others = [index for index in range(len(vectors)) if index != anchor]
        positive = [index for index in others if target[index] == target[anchor]]
        if not positive:
            continue
        scores = {index: cosine(vectors[anchor], vectors[index]) / TEMPERATURE for index in others}
        total = sum(math.exp(score) for score in scores.values())
        terms.append(-sum(math.log(math.exp(scores[index]) / total) for index in positive) / len(positive))
    return sum(terms) / len(terms) if terms else 0.0


def slow_prototypes(vectors: Tensor, target: Tensor, *, floor: float, all_anchors: bool) -> float:
    everything = [*vectors, *prototypes()]
    classes = [*target.tolist(), *range(CLASSES)]
    terms = []
    for anchor in range(len(everything) if all_anchors else len(vectors)):
        scores = {
            index: math.exp((1 + cosine(everything[anchor], other)) / 2 / TEMPERATURE)
            for index, other in enumerate(everything)
            if index != anchor
        }
        positive = [index for index in scores if classes[index] == classes[anchor]]
        if not positive:
            continue
        term = -math.log(sum(scores[index] for index in positive) / len(positive) / sum(scores.values()))
        if term > floor:
            terms.append(term)
    return sum(terms) / len(terms) if terms else 0.0


def slow_decoupled(vectors: Tensor, target: Tensor) -> float:
    everything = [*vectors, *prototypes()]
    classes = [*target.tolist(), *range(CLASSES)]
    terms = []
    for anchor in range(len(vectors)):
        scores = {
            index: (1 + cosine(vectors[anchor], other)) / 2 / TEMPERATURE
            for index, other in enumerate(everything)
            if index != anchor
        }
        positive = [score for index, score in scores.items() if classes[index] == target[anchor]]
        negative = [math.exp(score) for index, score in scores.items() if classes[index] != target[anchor]]
        term = -sum(positive) / len(positive) + math.log(sum(negative))
        if term > 0:
            terms.append(term)
    return sum(terms) / len(terms) if terms else 0.0


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def slow_divergence(main: Tensor, other: Tensor) -> float:
    total = 0.0
    for row in main:
        expected = softmax([cosine(row, column) / TEMPERATURE for column in main])
        found = softmax([cosine(row, column) / TEMPERATURE for column in other])
        total += sum(p * math.log(p / q) for p, q in zip(expected, found, strict=True))
    return total / len(main)


Fast = Callable[[Tensor, Tensor], Tensor]
FORMULAS: dict[str, tuple[Fast, Callable[[Tensor, Tensor], float]]] = {
    "supcon": (lambda vectors, target: supervised_contrastive(vectors, target, TEMPERATURE), slow_supcon),
    "spcl": (
        lambda vectors, target: prototype_contrast(vectors, target, prototypes(), TEMPERATURE),
        lambda vectors, target: slow_prototypes(vectors, target, floor=0.3, all_anchors=False),
    ),
    "spcl without a floor, all anchors": (
        lambda vectors, target: prototype_contrast(
            vectors, target, prototypes(), TEMPERATURE, floor=0.0, anchors="all"
        ),
        lambda vectors, target: slow_prototypes(vectors, target, floor=0.0, all_anchors=True),
    ),
    "apcl": (lambda vectors, target: decoupled_contrast(vectors, target, prototypes(), TEMPERATURE), slow_decoupled),
    "cmcl": (
        lambda vectors, target: relational_divergence(vectors_of(len(target), seed=4), vectors, TEMPERATURE),
        lambda vectors, target: slow_divergence(vectors_of(len(target), seed=4), vectors),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_loss_equals_its_formula(name: str, target: Tensor) -> None:
    fast, slow = FORMULAS[name]
    vectors = vectors_of(len(target))
    assert float(fast(vectors, target)) == pytest.approx(slow(vectors, target), abs=1e-8)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_gradient_of_a_loss_is_that_of_its_value(name: str, target: Tensor) -> None:
    fast, _ = FORMULAS[name]
    vectors = vectors_of(len(target)).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: fast(values, target), vectors)


def test_a_batch_without_any_pair_costs_nothing_and_has_a_gradient_of_zero() -> None:
    vectors = vectors_of(3).requires_grad_()
    loss = supervised_contrastive(vectors, torch.tensor([0, 1, 2]), TEMPERATURE)
    loss.backward()
    assert loss == 0
    assert vectors.grad is not None
    assert (vectors.grad == 0).all()


@pytest.mark.parametrize("name", ["supcon", "spcl", "apcl"])
def test_vectors_of_a_class_that_are_near_each_other_cost_less(name: str) -> None:
    target = torch.tensor([0, 0, 1, 1])
    centres = prototypes()[target]
    apart, near = vectors_of(4), centres + 0.01 * vectors_of(4)
    fast, _ = FORMULAS[name]
    assert fast(near, target) < fast(apart, target)


def test_no_gradient_flows_through_what_is_followed_or_predicted() -> None:
    main, other = (vectors_of(4, seed=seed).requires_grad_() for seed in (0, 1))
    relational_divergence(main, other, TEMPERATURE).backward()
    assert main.grad is None
    assert other.grad is not None
    predicted, projected = (vectors_of(4, seed=seed).requires_grad_() for seed in (0, 1))
    value = negative_cosine(predicted, projected)
    value.backward()
    assert projected.grad is None
    expected = -sum(cosine(one, two) for one, two in zip(predicted, projected, strict=True)) / 4
    assert float(value) == pytest.approx(expected)  # similar vectors cost less, not more


# The losses as a config makes them.


def make(name: str, **changes: Any) -> Loss:
    derived = {"hidden": 8, "outputs": CLASSES, "modalities": list(MODALITIES)}
    settings = node("loss", name, **changes)
    component_of = {"supcon": (), "spcl": ("hidden", "outputs"), "apcl": ("hidden", "outputs")}
    needs = {**component_of, "cmcl": ("modalities",), "simsiam": ("hidden", "modalities")}[name]
    torch.manual_seed(0)
    return instantiate(settings, where="loss", kind=Loss, task=TASK, **{key: derived[key] for key in needs})


NAMES = ("supcon", "spcl", "apcl", "cmcl", "simsiam")


def of_modalities(targets: list[int], seed: int = 3) -> tuple[Any, Any]:
    """A model's output with the vectors of three modalities, and its batch."""
    output, batch = example(targets)
    generator = torch.Generator().manual_seed(seed)
    vectors = {name: torch.randn(len(targets), 8, generator=generator).requires_grad_() for name in MODALITIES}
    fused = torch.stack(list(vectors.values())).sum(0)
    return replace(output, fusion=FusionOutput(fused=fused, vectors=vectors)), batch


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("targets", [[0, 1, 0, 2, 1], [0], [IGNORED, IGNORED], [1, 1]], ids=str)
def test_losses_are_finite_and_their_gradients_as_well(name: str, targets: list[int]) -> None:
    output, batch = of_modalities(targets)
    loss = make(name).train()
    values = loss(output, batch)
    assert list(values) == [name]
    loss.total(values).backward()
    for vector in output.fusion.vectors.values():
        assert vector.grad is None or torch.isfinite(vector.grad).all()


@pytest.mark.parametrize("name", ["supcon", "spcl", "apcl"])
def test_an_utterance_without_a_class_does_not_count(name: str) -> None:
    output, batch = of_modalities([0, 1, 0, IGNORED])
    few, of_few = of_modalities([0, 1, 0])
    fewer = replace(few, fusion=replace(few.fusion, fused=output.fusion.fused[:3]))
    torch.testing.assert_close(make(name)(output, batch), make(name)(fewer, of_few))


@pytest.mark.parametrize("name", ["cmcl", "simsiam"])
def test_a_missing_modality_does_not_count(name: str) -> None:
    output, batch = of_modalities([0, 1, 0])
    vectors = {key: value.detach().clone() for key, value in output.fusion.vectors.items()}
    for key in ("text", "audio", "video"):
        vectors[key] = torch.cat([vectors[key], torch.zeros(1, 8) if key != "text" else torch.ones(1, 8)])
    longer, of_longer = of_modalities([0, 1, 0, 1])
    longer = replace(longer, fusion=replace(longer.fusion, vectors=vectors))
    torch.testing.assert_close(make(name)(longer, of_longer), make(name)(output, batch))


def test_without_two_modalities_nothing_is_compared() -> None:
    output, batch = of_modalities([0, 1])
    vectors = {key: value if key == "text" else torch.zeros(2, 8) for key, value in output.fusion.vectors.items()}
    alone = replace(output, fusion=replace(output.fusion, vectors=vectors))
    assert make("cmcl")(alone, batch)["cmcl"] == 0


def test_orthonormal_rows_are_orthonormal() -> None:
    torch.manual_seed(0)
    rows = orthonormal(3, 8)
    torch.testing.assert_close(rows @ rows.T, torch.eye(3))
    assert orthonormal(5, 2).shape == (5, 2)


def spcl(**changes: Any) -> SPCL:
    loss = make("spcl", **{"pool": 4, "support": 2, **changes})
    assert isinstance(loss, SPCL)
    return loss.train()


def test_prototypes_of_spcl_begin_orthonormal_and_become_means_of_past_vectors() -> None:
    loss = spcl()
    torch.testing.assert_close(loss.prototypes(), loss.initial)
    loss.remember(torch.ones(1, 8), torch.tensor([1]))
    torch.testing.assert_close(loss.prototypes(), loss.initial)  # one vector is less than the support
    loss.remember(3 * torch.ones(1, 8), torch.tensor([1]))
    torch.testing.assert_close(loss.prototypes()[1], torch.full((8,), 2.0))
    torch.testing.assert_close(loss.prototypes()[0], loss.initial[0])


def test_an_anchor_is_not_in_its_own_prototype() -> None:
    loss = spcl(support=1)
    vectors, target = vectors_of(1)[:, [0] * 8].float(), torch.tensor([0])
    expected = prototype_contrast(vectors, target, loss.initial, loss.temperature)
    assert loss.compare(vectors, target)["spcl"] == expected
    assert int(loss.filled[0]) == 1


def test_a_full_pool_forgets_at_random_and_evaluation_changes_nothing() -> None:
    loss = spcl()
    for number in range(40):
        loss.remember(torch.full((1, 8), float(number)), torch.tensor([2]))
    kept = loss.pool[2, :, 0].tolist()
    assert int(loss.filled[2]) == 4
    assert len(set(kept)) == 4
    assert kept != [36.0, 37.0, 38.0, 39.0]
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    loss.eval()(*of_modalities([0, 1, 2]))
    assert all(torch.equal(before[key], value) for key, value in loss.state_dict().items())


def apcl(**changes: Any) -> APCL:
    loss = make("apcl", **changes)
    assert isinstance(loss, APCL)
    return loss.train()


def test_prototypes_of_apcl_follow_their_classes_and_stay_orthonormal() -> None:
    loss = apcl(momentum=0.5, rate=0.5)
    towards = torch.nn.functional.one_hot(torch.tensor([5]), 8).float() * 4
    before = cosine(loss.prototypes[1], towards[0])
    for _ in range(3):
        loss.follow(towards, torch.tensor([1]))
    assert cosine(loss.prototypes[1], towards[0]) > before + 0.2
    torch.testing.assert_close(loss.prototypes @ loss.prototypes.T, torch.eye(CLASSES), atol=1e-5, rtol=0)
    kept = loss.prototypes.clone()
    loss.eval()(*of_modalities([0, 1, 2]))
    assert torch.equal(loss.prototypes, kept)


def test_the_signs_of_prototypes_do_not_flip() -> None:
    loss = apcl(momentum=0.9, rate=0.0)
    before = loss.prototypes.clone()
    for _ in range(3):
        loss.follow(vectors_of(2)[:, [0] * 8].float(), torch.tensor([0, 1]))
    torch.testing.assert_close(loss.prototypes, before, atol=1e-5, rtol=0)


def test_states_are_stored_and_loaded() -> None:
    for loss, other in ((spcl(), spcl()), (apcl(), apcl())):
        for seed in range(3):
            loss(*of_modalities([0, 1, 2, 0, 1, 2], seed=seed))
        other.load_state_dict(loss.state_dict(), strict=True)
        output = of_modalities([0, 1, 2])
        assert torch.equal(loss.total(loss.eval()(*output)), other.total(other.eval()(*output)))


def test_the_networks_of_simsiam_train() -> None:
    loss = make("simsiam").train()
    assert isinstance(loss, SimSiam)
    loss.total(loss(*of_modalities([0, 1, 0]))).backward()
    parameters = dict(loss.named_parameters())
    assert parameters
    assert all(parameter.grad is not None for parameter in parameters.values())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("spcl", {"support": 600}, r"loss\.support: expected at most loss\.pool=512, got 600"),
        ("supcon", {"temperature": 0}, r"loss\.temperature: expected a number above 0, got 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(name, **changes)


def test_more_classes_than_units_are_refused() -> None:
    with pytest.raises(UserError, match=r"expected model\.hidden of at least the 9 classes"):
        APCL(task=TASK, hidden=8, outputs=9)


def test_the_main_modality_of_cmcl_has_to_be_there_and_another_one() -> None:
    with pytest.raises(UserError, match=r"loss\.main: expected one of text, audio, video, got 'face'"):
        CMCL(task=TASK, main="face", modalities=list(MODALITIES))
    with pytest.raises(UserError, match="expected at least two modalities for cmcl, got text"):
        CMCL(task=TASK, modalities=["text"])


def test_all_of_them_leave_the_head_to_another_loss() -> None:
    assert not any(make(name).trains_head for name in NAMES)
    assert issubclass(SPCL, RepresentationLoss)
