"""Which parts of one model another one takes."""

import pytest
import torch
from torch import Tensor

from emorec.errors import UserError
from emorec.training.initial_weights import Parts, fitting, parts_of

SHAPES = {"encoder.audio": {"a": (2, 3), "b": (3,)}, "fusion": {"gate": (4,)}, "head": {"weight": (5, 4)}}


def parts(**changes: dict[str, tuple[int, ...]]) -> Parts:
    shapes = {**SHAPES, **{name.replace("_", "."): value for name, value in changes.items()}}
    return {
        name: {f"{name}.{key}": torch.zeros(shape) for key, shape in own.items()} for name, own in shapes.items() if own
    }


def take(
    source: Parts, target: Parts, *, chosen: tuple[str, ...] | None = None, same: bool = True
) -> tuple[Parts, dict[str, str]]:
    return fitting(source, target, chosen=chosen, has_same_labels=same)


def test_all_parts_that_fit_are_taken() -> None:
    taken, left = take(parts(), parts())
    assert (list(taken), left) == (list(SHAPES), {})


def test_a_part_that_the_model_lacks_is_left_out() -> None:
    taken, left = take(parts(), parts(encoder_audio={}, encoder_text={"a": (1,)}))
    assert list(taken) == ["fusion", "head"]
    assert left == {"encoder.audio": "the model has no encoder.audio.a (2 such)"}


def test_a_part_with_a_tensor_more_than_the_model_is_left_out_and_one_with_fewer_taken() -> None:
    more = {"a": (2, 3), "b": (3,), "c": (1,)}
    taken, left = take(parts(encoder_audio=more), parts())
    assert left == {"encoder.audio": "the model has no encoder.audio.c"}
    assert "encoder.audio" not in taken
    taken, left = take(parts(), parts(encoder_audio=more))
    assert (list(taken), left) == (list(SHAPES), {})


def test_the_head_of_other_labels_is_left_out() -> None:
    taken, left = take(parts(), parts(head={"weight": (2, 4)}), same=False)
    assert (list(taken), left) == (["encoder.audio", "fusion"], {"head": "it is for other labels"})


@pytest.mark.parametrize(
    ("source", "target", "chosen", "same", "message"),
    [
        (parts(), parts(fusion={"gate": (7,)}), None, True, "expected fusion.gate of shape (7,), got (4,)"),
        (parts(), parts(encoder_audio={}), ("encoder",), True, "expected encoder.audio to fit: the model has no"),
        (parts(), parts(), ("head",), False, "expected head to fit: it is for other labels"),
        ({"fusion": parts()["fusion"]}, parts(fusion={}), None, True, "expected components that fit the model"),
    ],
)
def test_what_cannot_be_taken_is_named(
    source: Parts, target: Parts, chosen: tuple[str, ...] | None, *, same: bool, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        take(source, target, chosen=chosen, same=same)
    assert message in str(caught.value)


def test_parts_that_are_not_chosen_may_have_other_shapes() -> None:
    taken, left = take(parts(), parts(fusion={"gate": (7,)}), chosen=("encoder", "head"))
    assert (list(taken), left) == (["encoder.audio", "head"], {})


def test_each_modality_of_a_component_is_a_part() -> None:
    weights: dict[str, Tensor] = {"audio.weight": torch.zeros(1), "text.weight": torch.zeros(1)}
    found = parts_of({"projection": weights, "fusion": {"layer.weight": torch.zeros(1)}})
    assert {name: list(own) for name, own in found.items()} == {
        "projection.audio": ["projection.audio.weight"],
        "projection.text": ["projection.text.weight"],
        "fusion": ["fusion.layer.weight"],
    }
