"""What counts as rounding when a graph is compared with its run."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from emorec.errors import UserError
from emorec.inference.export.graph import ExportGraph
from emorec.inference.export.parity import TOLERANCE, Apply, check_parity
from emorec.models.emotion_model import EmotionModel
from tests.inference.export.small_models import DIMS, feature_ports, fusion_of, model_of

ONE_BIT = 2.0**-23


def cancelling(scale: float) -> EmotionModel:
    """A model whose classes depend on the difference of two equal units times `scale`, which is rounding alone."""
    torch.manual_seed(0)
    model = model_of(DIMS, fusion_of("concat", tuple(DIMS)))
    last = [layer for layer in model.fusion.modules() if isinstance(layer, nn.Linear)][-1]
    head: Any = model.head
    with torch.no_grad():
        for values in last.parameters():
            values[1] = values[0]
        head.layers[1].weight[0, :2] += torch.tensor([scale, -scale])
    return model


def graph_of(model: EmotionModel) -> ExportGraph:
    return ExportGraph(model, {name: port.reading for name, port in feature_ports(DIMS).items()}).eval()


def other_rounding(model: EmotionModel, error: float = 0.0) -> Apply:
    """The same network where one of the two units is off by its last bits, and all outputs by `error`."""
    other = deepcopy(model)
    last = [layer for layer in other.fusion.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        last.weight[1] *= 1 + ONE_BIT * (2 * torch.randint(0, 2, last.weight[1].shape) - 1)
    graph = graph_of(other)

    def apply(tensors: Mapping[str, Any]) -> tuple[Any, ...]:
        with torch.inference_mode():
            outputs = graph(*map(torch.from_numpy, tensors.values()))
        return tuple(values.numpy() + error for values in outputs)

    return apply


def test_rounding_that_the_run_amplifies_itself_is_no_difference() -> None:
    model = cancelling(3e4)
    found = check_parity(graph_of(model), feature_ports(DIMS), other_rounding(model))
    assert found.rounding is not None
    assert TOLERANCE < found.difference <= found.rounding < 1e-2
    assert f"the last bit of the weights moves the run by {found.rounding:.1e}" in str(found)


def test_a_run_that_amplifies_nothing_is_compared_as_it_is() -> None:
    model = cancelling(1.0)
    assert check_parity(graph_of(model), feature_ports(DIMS), other_rounding(model)).rounding is None
    with pytest.raises(UserError, match=r"got a difference of 0.0003 .* moves the run by [0-9.]+e-0[678]"):
        check_parity(graph_of(model), feature_ports(DIMS), other_rounding(model, 3e-4))


@pytest.mark.parametrize("scale", [3e4, 1e8])
def test_a_difference_beyond_rounding_is_refused_however_much_the_run_amplifies(scale: float) -> None:
    model = cancelling(scale)
    with pytest.raises(UserError, match=r"expected a graph within 0\.0001 of the run, got a difference of "):
        check_parity(graph_of(model), feature_ports(DIMS), other_rounding(model, 0.02))
