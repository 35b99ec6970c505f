"""Compares an exported graph with the run that it is of."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from emorec.errors import UserError
from emorec.inference.export.example import ROWS, SIZES, Array, Example, make_example, outputs_of_run
from emorec.inference.export.graph import ExportGraph
from emorec.inference.export.port import Port
from emorec.models.emotion_model import EmotionModel

TOLERANCE = 1e-4  # of probabilities; of logits and values beyond ±1 in proportion
MOST_ROUNDING = 1e-2  # of a difference that may be rounding
LAST_BIT, NUDGES = 2.0**-23, 4  # of a float32 in proportion, and how often the weights are moved by it
Apply = Callable[[Mapping[str, Array]], tuple[Array, ...]]  # {name: input} -> the outputs


@dataclass(frozen=True)
class Parity:
    """How close a graph is to its run."""

    difference: float  # the largest one
    where: str  # the sizes of the inputs of this one
    batches: int  # number of those that were compared
    # how far the last bit of the weights moves the run on these inputs; measured only beyond `TOLERANCE`
    rounding: float | None = None

    def __str__(self) -> str:
        beyond = "" if self.rounding is None else f"; the last bit of the weights moves the run by {self.rounding:.1e}"
        return f"{self.difference:.1e} over {self.batches} batches ({self.where}{beyond})"


def difference_of(found: tuple[Array, ...], expected: tuple[Array, ...]) -> float:
    """The largest difference of two outputs, in proportion to the expected value where that is beyond ±1."""
    assert [item.shape for item in found] == [item.shape for item in expected], [item.shape for item in found]
    pairs = zip(found, expected, strict=True)
    worst = max(float(np.max(np.abs(one - other) / np.maximum(1, np.abs(other)))) for one, other in pairs)
    return worst if np.isfinite(worst) else np.inf


def check_parity(
    graph: ExportGraph, ports: Mapping[str, Port], apply: Apply, *, batches: Sequence[int] = ROWS, seed: int = 0
) -> Parity:
    """Compares them at batches of 1, 3 and 17, three lengths each, with padding and missing modalities.

    Where all lengths are fixed there is one. A deep recurrent network can amplify the rounding of float32 beyond any
    bound. A difference above `TOLERANCE` is taken for rounding where the run itself changes as much on the same inputs
    when each of its weights is moved by its last bit, up or down at random.

    Raises:
        UserError: they differ by more than that; it says by how much, and where.
    """
    worst = Parity(-1.0, "", 0)
    generator = np.random.default_rng(seed)
    lengths = 1 if all(port.declared.steps for port in ports.values()) else SIZES
    for rows in batches:
        for size in range(lengths):
            example = make_example(ports, graph.model, rows=rows, size=size, generator=generator)
            expected = outputs_of_run(ports, graph.model, example)
            found = Parity(difference_of(_applied(apply, example), expected), example.where, len(batches) * lengths)
            if found.difference > TOLERANCE:
                found = replace(found, rounding=_rounding(ports, graph.model, example, expected))
                _require_rounding(found)
            worst = max(worst, found, key=lambda item: item.difference)
    return worst


def _require_rounding(found: Parity) -> None:
    """Raises a `UserError` where rounding does not explain a difference."""
    assert found.rounding is not None
    if found.difference > min(found.rounding, MOST_ROUNDING):
        raise UserError(
            f"expected a graph within {TOLERANCE:g} of the run, got a difference of {found.difference:.2g} "
            f"({found.where}), where the last bit of the weights moves the run by {found.rounding:.2g}"
        )


def _rounding(ports: Mapping[str, Port], model: EmotionModel, example: Example, expected: tuple[Array, ...]) -> float:
    """How far the run's outputs move when each of its weights is moved by its last bit: the most of some draws."""
    generator = torch.Generator().manual_seed(0)
    moved = deepcopy(model)
    differences = []
    for _ in range(NUDGES):
        moved.load_state_dict({name: _nudged(values, generator) for name, values in model.state_dict().items()})
        differences.append(difference_of(outputs_of_run(ports, moved, example), expected))
    return max(differences)


def _nudged(values: Tensor, generator: Generator) -> Tensor:
    """Values moved by their last bit, up or down at random; whole numbers stay."""
    if not values.is_floating_point():
        return values
    up = torch.randint(0, 2, values.shape, generator=generator)
    return values * (1 + LAST_BIT * (2 * up - 1))


def _applied(apply: Apply, example: Example) -> tuple[Array, ...]:
    """The graph's outputs.

    Raises:
        UserError: the graph refuses these sizes.
    """
    try:
        return apply(example.tensors)
    except Exception as error:  # of onnxruntime or torch, which have no common base class
        raise UserError(
            f"expected a graph of any batch and length, got one that fails ({example.where}): {error}"
        ) from error
