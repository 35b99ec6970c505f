"""What holds for every context, checked for each YAML of `conf/context`."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from emorec.config.instantiation import instantiate
from emorec.context.context import Context, reverse, speaker_slots
from emorec.context.window import window_mask
from emorec.errors import UserError
from tests.discovery import names, node

HIDDEN = 16
TURNS = (5, 1, 3, 7)
GARBAGE = 1e3

Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(params=names("context"))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=(False, True), ids=("both_directions", "causal"))
def causal(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def context(name: str, causal: bool) -> Context:
    """In eval mode and float64, where equal means equal."""
    return make(name, seed=0, causal=causal).eval()


def make(name: str, seed: int = 0, dropout: float = 0.2, **changes: Any) -> Context:
    torch.manual_seed(seed)
    settings = node("context", name, dropout=dropout, **changes)
    return instantiate(settings, where="context", kind=Context, hidden=HIDDEN).double()


def dialogues(padding: int = 0) -> Inputs:
    """Dialogues of two and three speakers, some of them unknown; whatever is beyond their turns is garbage."""
    generator = torch.Generator().manual_seed(7)
    counts = torch.tensor(TURNS)
    longest = int(counts.max()) + padding
    mask = torch.arange(longest) < counts[:, None]
    turns = torch.randn(len(TURNS), max(TURNS), HIDDEN, generator=generator, dtype=torch.float64)
    speaker = torch.randint(-1, 3, (len(TURNS), max(TURNS)), generator=generator) * 10
    turns = torch.nn.functional.pad(turns, (0, 0, 0, padding))
    speaker = torch.nn.functional.pad(speaker, (0, padding))
    return turns.where(mask[:, :, None], GARBAGE if padding else 0.0), mask, speaker.where(mask, 77 if padding else 0)


def known(output: Tensor, mask: Tensor) -> Tensor:
    return output[mask]


def test_every_turn_gets_a_vector(context: Context) -> None:
    turns, mask, speaker = dialogues()
    output = context(turns, mask, speaker)
    assert output.shape == turns.shape
    assert torch.isfinite(known(output, mask)).all()


def test_padding_does_not_change_the_turns(context: Context) -> None:
    padded, few = dialogues(padding=4), dialogues()
    actual, expected = known(context(*padded), padded[1]), known(context(*few), few[1])
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_a_dialogue_alone_equals_the_dialogue_among_others(context: Context) -> None:
    turns, mask, speaker = dialogues()
    together = context(turns, mask, speaker)
    for row, count in enumerate(TURNS):
        alone = context(turns[row : row + 1, :count], mask[row : row + 1, :count], speaker[row : row + 1, :count])
        torch.testing.assert_close(alone[0], together[row, :count], rtol=1e-9, atol=1e-9)


def test_the_order_of_dialogues_does_not_matter(context: Context) -> None:
    turns, mask, speaker = dialogues()
    order = torch.tensor([2, 0, 3, 1])
    permuted = context(turns[order], mask[order], speaker[order])
    expected = context(turns, mask, speaker)[order]
    torch.testing.assert_close(known(permuted, mask[order]), known(expected, mask[order]), rtol=1e-9, atol=1e-9)


def influence(context: Context) -> Tensor:
    """(U, U), true where the output of the first turn of the longest dialogue depends on the second turn."""
    row, (turns, mask, speaker) = TURNS.index(max(TURNS)), dialogues()
    turns, mask, speaker = turns[row : row + 1], mask[row : row + 1], speaker[row : row + 1]
    before = context(turns, mask, speaker)[0]
    found = torch.zeros(max(TURNS), max(TURNS), dtype=torch.bool)
    for turn in range(max(TURNS)):
        changed = turns.clone()
        changed[0, turn] += torch.linspace(-1, 1, HIDDEN)
        found[:, turn] = (context(changed, mask, speaker)[0] - before).abs().amax(1) > 1e-12
    return found


def test_a_causal_context_never_looks_ahead_and_others_do(name: str) -> None:
    last = max(TURNS) - 1
    causal = influence(make(name, causal=True).eval())
    assert not causal.triu(1).any()
    assert causal.diagonal().all()
    assert causal[last, 0]
    assert influence(make(name, causal=False).eval())[0].any(0)
    assert influence(make(name, causal=False).eval()).triu(1).any()


def test_later_speakers_do_not_change_what_a_causal_context_finds(name: str) -> None:
    context = make(name, causal=True).eval()
    turns, mask, speaker = dialogues()
    other = speaker.clone()
    other[:, 2:] = torch.arange(100, 100 + other[:, 2:].numel()).view_as(other[:, 2:])
    torch.testing.assert_close(context(turns, mask, other)[:, :2], context(turns, mask, speaker)[:, :2])


def test_the_numbers_of_speakers_do_not_matter(context: Context) -> None:
    turns, mask, speaker = dialogues()
    torch.testing.assert_close(context(turns, mask, 1000 - speaker), context(turns, mask, speaker), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["dialogue_rnn", "dialogue_gcn", "transformer"])
def test_who_speaks_matters(name: str) -> None:
    context = make(name).eval()
    turns, mask, _ = dialogues()
    alternating = (torch.arange(max(TURNS)) % 2).expand(len(TURNS), -1)
    output, of_one = context(turns, mask, alternating), context(turns, mask, torch.zeros_like(alternating))
    assert (known(output, mask) - known(of_one, mask)).abs().max() > 1e-6


def test_by_name_a_speaker_is_the_same_in_every_dialogue(name: str, causal: bool) -> None:
    context = make(name, causal=causal, speakers="name").eval()
    turns, mask, speaker = dialogues()
    speaker = torch.where(speaker >= 0, speaker + (1 << 62), -1)  # numbers of names are large
    plain = make(name, causal=causal).eval()
    torch.testing.assert_close(context(turns, mask, speaker)[mask], plain(turns, mask, speaker)[mask])
    assert context.names is not None
    nn.init.normal_(context.names.vectors)
    vectors = context.names(speaker)
    assert bool((vectors[speaker < 0] == 0).all())
    assert len(vectors[speaker >= 0].unique(dim=0)) == len(speaker[speaker >= 0].unique())
    renamed = torch.where(speaker >= 0, speaker + 1, -1)
    assert not torch.allclose(context(turns, mask, speaker)[mask], context(turns, mask, renamed)[mask])


def test_a_dialogue_of_one_turn_works(context: Context) -> None:
    turns, mask, speaker = dialogues()
    output = context(turns[:, :1], mask[:, :1], speaker[:, :1])
    assert output.shape == (len(TURNS), 1, HIDDEN)
    assert torch.isfinite(output).all()


def test_gradients_reach_every_parameter(name: str, causal: bool) -> None:
    context = make(name, dropout=0.0, causal=causal).train()
    turns, mask, speaker = dialogues(padding=2)
    output = known(context(turns, mask, speaker), mask)
    generator = torch.Generator().manual_seed(3)
    (output * torch.randn(output.shape, generator=generator, dtype=output.dtype)).sum().backward()
    for label, parameter in context.named_parameters():
        assert parameter.grad is not None, label
        assert torch.isfinite(parameter.grad).all(), label
        assert parameter.grad.abs().max() > 1e-12, label


def test_in_dialogues_of_one_turn_every_parameter_has_a_gradient(name: str, causal: bool) -> None:
    context = make(name, causal=causal).train()
    turns, mask, speaker = dialogues()
    context(turns[:, :1], mask[:, :1], speaker[:, :1]).square().sum().backward()
    assert all(parameter.grad is not None for parameter in context.parameters())


def test_dropout_acts_in_training_only(name: str) -> None:
    context, batch = make(name, dropout=0.5), dialogues()
    assert not torch.equal(context.train()(*batch), context(*batch))
    assert torch.equal(context.eval()(*batch), context(*batch))


def test_it_is_exported(name: str, causal: bool) -> None:
    context = make(name, causal=causal).eval().float()
    turns, mask, speaker = dialogues()
    exported = torch.export.export(context, (turns.float(), mask, speaker)).module()
    expected = context(turns.float(), mask, speaker)
    torch.testing.assert_close(exported(turns.float(), mask, speaker), expected)


def test_half_precision_is_finite(context: Context) -> None:
    turns, mask, speaker = dialogues(padding=1)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(known(context.float()(turns.float(), mask, speaker), mask)).all()


def test_turns_are_reversed_within_their_dialogue() -> None:
    mask = torch.arange(4) < torch.tensor([3, 1, 4])[:, None]
    turns = torch.arange(12).view(3, 4)
    assert reverse(turns, mask).tolist() == [[2, 1, 0, 3], [4, 5, 6, 7], [11, 10, 9, 8]]
    assert torch.equal(reverse(reverse(turns, mask), mask), turns)


def test_speakers_are_numbered_by_their_first_turn() -> None:
    speaker = torch.tensor([[9, 4, 9, -1, 4], [2, 2, 5, 5, 5]])
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    assert speaker_slots(speaker, mask).tolist() == [[0, 1, 0, 2, 1], [0, 0, 1, 0, 0]]


def test_a_window_is_the_turns_near_a_turn() -> None:
    mask = torch.tensor([[True, True, True, False]])
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert window_mask(mask, past=1, future=0)[0].int().tolist() == expected
    assert window_mask(mask, past=None, future=None)[0].int().tolist() == [[1, 1, 1, 0]] * 3 + [[0, 0, 0, 1]]


@pytest.mark.parametrize("name", ["dialogue_gcn", "transformer"])
def test_turns_beyond_the_window_do_not_count(name: str) -> None:
    if name == "transformer":
        found = influence(make(name, past=1, future=1, depth=1).eval())
        distance = torch.arange(max(TURNS))[None] - torch.arange(max(TURNS))[:, None]
        assert torch.equal(found, distance.abs() <= 1)
    else:  # its recurrent network sees all turns; what the graph adds is seen in its mask
        assert not torch.allclose(make(name, past=1, future=1).eval()(*dialogues()), make(name).eval()(*dialogues()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, r"context\.heads: expected a divisor of model\.hidden=16, got 3"),
        ({"views": ["all", "same", "other"]}, r"context\.heads: expected a multiple of the 3 views, got 4"),
        ({"views": ["mine"]}, r"context\.views"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make("transformer", **changes)
