"""What holds for every fusion, checked for each YAML of `conf/fusion`."""

import itertools
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor

from emorec.batch import MODALITIES, FusionOutput
from emorec.config.instantiation import instantiate, locate
from emorec.errors import UserError
from emorec.fusion.fusion import Fusion
from tests.discovery import names, node

HIDDEN = 16
OUTPUTS = 3
ROWS = 5
LENGTHS = {"text": (3, 1, 7, 2, 5), "audio": (9, 4, 1, 6, 2), "video": (1, 1, 1, 1, 1)}
GARBAGE = 1e3

# Poolings do not depend on the fusion, but for one that pools what its modalities have exchanged.
CASES = [(name, "mean") for name in names("fusion")]
CASES += [(name, pooling) for name in ("concat", "bottleneck") for pooling in ("attention", "attentive_statistics")]

Inputs = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    name, pooling = request.param
    return name, pooling


@pytest.fixture
def name(case: tuple[str, str]) -> str:
    return case[0]


@pytest.fixture
def pooling(case: tuple[str, str]) -> str:
    return case[1]


@pytest.fixture(params=(("audio",), MODALITIES), ids=("one_modality", "three_modalities"))
def modalities(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return tuple(request.param)


@pytest.fixture
def fusion(name: str, pooling: str, modalities: tuple[str, ...]) -> Fusion:
    """In eval mode and float64, where equal means equal."""
    return make(name, pooling, modalities, seed=0).eval()


def make(name: str, pooling: str, modalities: tuple[str, ...], seed: int, dropout: float = 0.2) -> Fusion:
    torch.manual_seed(seed)
    settings = node("fusion", name, pooling=pooling)
    if "dropout" in settings:
        settings["dropout"] = dropout
    return build(settings, dict.fromkeys(modalities, HIDDEN)).double()


def build(settings: dict[str, Any], dims: dict[str, int], hidden: int = HIDDEN) -> Fusion:
    derived = {"outputs": OUTPUTS} if "outputs" in signature(locate(settings["_target_"])).parameters else {}
    return instantiate(settings, where="fusion", kind=Fusion, dims=dims, hidden=hidden, **derived)


def inputs(modalities: tuple[str, ...], extra_frames: int = 0) -> Inputs:
    """A batch with everything present; whatever is beyond a row's length is garbage."""
    generator = torch.Generator().manual_seed(7)
    features, mask, present = {}, {}, {}
    for modality in modalities:
        length = torch.tensor(LENGTHS[modality])
        longest = int(length.max())
        values = torch.randn(ROWS, longest, HIDDEN, generator=generator, dtype=torch.float64)
        garbage = torch.full((ROWS, extra_frames, HIDDEN), GARBAGE, dtype=torch.float64)
        values = torch.cat([values, garbage], dim=1)
        mask[modality] = torch.arange(longest + extra_frames) < length[:, None]
        features[modality] = torch.where(mask[modality][:, :, None], values, GARBAGE if extra_frames else 0.0)
        present[modality] = torch.ones(ROWS, dtype=torch.bool)
    return features, mask, present


def taken(batch: Inputs, rows: Tensor) -> Inputs:
    features, mask, present = ({key: value[rows] for key, value in part.items()} for part in batch)
    return features, mask, present


def assert_same(actual: FusionOutput, expected: FusionOutput) -> None:
    torch.testing.assert_close(actual.fused, expected.fused, rtol=1e-9, atol=1e-9)
    assert actual.vectors.keys() == expected.vectors.keys()
    for modality, vector in expected.vectors.items():
        torch.testing.assert_close(actual.vectors[modality], vector, rtol=1e-9, atol=1e-9)
    for modality, logits in (expected.logits or {}).items():
        assert actual.logits is not None
        torch.testing.assert_close(actual.logits[modality], logits, rtol=1e-9, atol=1e-9)
    if expected.decided is not None:
        torch.testing.assert_close(actual.decided, expected.decided, rtol=1e-9, atol=1e-9)


def total(output: FusionOutput) -> Tensor:
    """A scalar of all that a model trains with."""
    generator = torch.Generator().manual_seed(5)
    values = [value for value in (output.fused, output.decided) if value is not None]
    weights = [torch.randn(value.shape, generator=generator, dtype=value.dtype) for value in values]
    products = [(value * weight).sum() for value, weight in zip(values, weights, strict=True)]
    return torch.stack([*products, *output.losses.values()]).sum()


def test_the_output_has_one_vector_an_utterance(fusion: Fusion, modalities: tuple[str, ...]) -> None:
    output = fusion(*inputs(modalities))
    assert output.fused.shape == (ROWS, HIDDEN)
    assert tuple(output.vectors) == modalities
    assert all(vector.shape == (ROWS, HIDDEN) for vector in output.vectors.values())
    assert all(value.ndim == 0 for value in output.losses.values())
    assert torch.isfinite(output.fused).all()


def test_modalities_of_different_widths_are_fused(name: str, pooling: str) -> None:
    dims = {"text": 6, "audio": 10, "video": 3}
    fusion = build(node("fusion", name, pooling=pooling), dims).eval()
    features = {modality: torch.randn(2, 4, dim) for modality, dim in dims.items()}
    mask = {modality: torch.ones(2, 4, dtype=torch.bool) for modality in dims}
    present = {modality: torch.ones(2, dtype=torch.bool) for modality in dims}
    assert fusion(features, mask, present).fused.shape == (2, HIDDEN)


def test_different_utterances_get_different_vectors(fusion: Fusion, modalities: tuple[str, ...]) -> None:
    fused = fusion(*inputs(modalities)).fused
    assert torch.pdist(fused).min() > 1e-6


def test_every_modality_changes_the_output(name: str, pooling: str) -> None:
    fusion = make(name, pooling, MODALITIES, seed=0).eval()
    batch = inputs(MODALITIES)
    expected = fusion(*batch).fused
    for modality in MODALITIES:
        changed = {**batch[0], modality: batch[0][modality] + batch[1][modality][:, :, None]}
        assert not torch.allclose(fusion(changed, *batch[1:]).fused, expected), modality


def test_padding_does_not_change_the_output(fusion: Fusion, modalities: tuple[str, ...]) -> None:
    assert_same(fusion(*inputs(modalities, extra_frames=6)), fusion(*inputs(modalities)))


def test_a_row_alone_equals_the_row_among_others(fusion: Fusion, modalities: tuple[str, ...]) -> None:
    batch = inputs(modalities)
    together = fusion(*batch).fused
    alone = torch.cat([fusion(*taken(batch, torch.tensor([row]))).fused for row in range(ROWS)])
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-9)


def test_the_order_of_the_rows_does_not_matter(fusion: Fusion, modalities: tuple[str, ...]) -> None:
    batch = inputs(modalities)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(fusion(*taken(batch, order)).fused, fusion(*batch).fused[order], rtol=1e-9, atol=1e-9)


def subsets() -> list[tuple[str, ...]]:
    return [chosen for size in (1, 2) for chosen in itertools.combinations(MODALITIES, size)]


@pytest.mark.parametrize("there", subsets(), ids="+".join)
def test_a_missing_modality_changes_nothing(name: str, pooling: str, there: tuple[str, ...]) -> None:
    fusion = make(name, pooling, MODALITIES, seed=0).eval()
    features, mask, present = inputs(MODALITIES)
    row = 2
    for modality in set(MODALITIES) - set(there):
        present[modality][row] = False
    zero, garbage, unmarked = dict(features), dict(features), dict(mask)
    for modality in set(MODALITIES) - set(there):
        zero[modality], garbage[modality] = features[modality].clone(), features[modality].clone()
        unmarked[modality] = mask[modality].clone()
        zero[modality][row], garbage[modality][row], unmarked[modality][row] = 0.0, GARBAGE, False
    expected = fusion(zero, unmarked, present)  # as the batches come: zero rows without a single frame
    assert torch.isfinite(expected.fused).all()
    assert all((expected.vectors[modality][row] == 0).all() for modality in set(MODALITIES) - set(there))
    assert_same(fusion(garbage, unmarked, present), expected)
    assert_same(fusion(garbage, mask, present), expected)


def test_missing_modalities_leave_the_other_rows_alone(name: str, pooling: str) -> None:
    fusion = make(name, pooling, MODALITIES, seed=0).eval()
    features, mask, present = inputs(MODALITIES)
    whole = fusion(features, mask, present).fused
    present["audio"][1] = False
    partly = fusion(features, mask, present).fused
    others = [0, 2, 3, 4]
    torch.testing.assert_close(partly[others], whole[others], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(partly[1], whole[1])


def test_missing_modalities_leave_gradients_finite(name: str, pooling: str) -> None:
    fusion = make(name, pooling, MODALITIES, seed=0).train()
    features, mask, present = inputs(MODALITIES)
    for row, modality in [*enumerate(MODALITIES), (3, "text"), (3, "video")]:
        present[modality][row] = False
        mask[modality][row] = False
        features[modality][row] = 0.0
    total(fusion(features, mask, present)).backward()
    gradients = [parameter.grad for parameter in fusion.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_gradients_reach_every_parameter_when_all_are_present(name: str, pooling: str) -> None:
    modalities = ("text", "audio", "second_audio")  # all are sequences, since a single frame needs no weight
    fusion = make(name, pooling, modalities, seed=0, dropout=0.0).train()
    generator = torch.Generator().manual_seed(3)
    shape = (ROWS, 6, HIDDEN)
    features = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name in modalities}
    mask = {name: torch.ones(shape[:2], dtype=torch.bool) for name in modalities}
    present = {name: torch.ones(ROWS, dtype=torch.bool) for name in modalities}
    total(fusion(features, mask, present)).backward()
    for label, parameter in fusion.named_parameters():
        assert parameter.grad is not None, label
        assert torch.isfinite(parameter.grad).all(), label
        # a bias before a softmax has no effect, and so no gradient; a matrix has
        assert parameter.ndim < 2 or parameter.grad.abs().max() > 1e-12, label


def test_gradients_reach_every_parameter_of_a_single_modality(name: str, pooling: str) -> None:
    fusion = make(name, pooling, ("audio",), seed=0).train()
    total(fusion(*inputs(("audio",)))).backward()
    assert all(parameter.grad is not None for parameter in fusion.parameters())


def test_the_output_in_eval_is_deterministic(fusion: Fusion, modalities: tuple[str, ...]) -> None:
    batch = inputs(modalities)
    assert torch.equal(fusion(*batch).fused, fusion(*batch).fused)


def test_dropout_acts_in_training_only(name: str, pooling: str) -> None:
    if "dropout" not in node("fusion", name):
        pytest.skip("has no dropout")
    fusion = make(name, pooling, MODALITIES, seed=0, dropout=0.5).train()
    batch = inputs(MODALITIES)
    assert not torch.equal(fusion(*batch).fused, fusion(*batch).fused)


def test_inference_mode_gives_the_output_that_training_saw(fusion: Fusion, modalities: tuple[str, ...]) -> None:
    batch = inputs(modalities)
    if len(modalities) > 1:
        batch[2]["text"][0] = False
    expected = fusion(*batch)
    with torch.inference_mode():  # torch takes other paths here
        assert_same(fusion(*batch), expected)


def test_the_state_dict_makes_another_instance_equal(
    name: str, pooling: str, modalities: tuple[str, ...], fusion: Fusion
) -> None:
    other = make(name, pooling, modalities, seed=1).eval()
    batch = inputs(modalities)
    expected = fusion(*batch)
    assert not torch.allclose(other(*batch).fused, expected.fused)
    other.load_state_dict(fusion.state_dict(), strict=True)
    assert torch.equal(other(*batch).fused, expected.fused)


def test_half_precision_is_finite_with_missing_modalities(name: str, pooling: str) -> None:
    fusion = make(name, pooling, MODALITIES, seed=0).eval().float()
    features, mask, present = inputs(MODALITIES)
    present["text"][0], mask["text"][0] = False, False
    narrow = {modality: value.float() for modality, value in features.items()}
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(fusion(narrow, mask, present).fused).all()


def test_an_unknown_pooling_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"fusion\.pooling: expected 'mean', 'attention' or .*, got 'median'"):
        make(name, "median", ("audio",), seed=0)
