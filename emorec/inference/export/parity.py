"""Compares an exported graph with the run that it is of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emorec.errors import UserError
from emorec.inference.export.example import ROWS, SIZES, Array, Example, make_example, outputs_of_run
from emorec.inference.export.graph import ExportGraph
from emorec.inference.export.port import Port

TOLERANCE = 1e-4  # of probabilities; of logits and values beyond ±1 in proportion
Apply = Callable[[Mapping[str, Array]], tuple[Array, ...]]  # {name: input} -> the outputs


@dataclass(frozen=True)
class Parity:
    """How close a graph is to its run."""

    difference: float  # the largest one
    where: str  # the sizes of the inputs of this one
    batches: int  # number of those that were compared


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

    Where all lengths are fixed there is one.

    Raises:
        UserError: they differ by more than `TOLERANCE`; it says by how much, and where.
    """
    worst = Parity(-1.0, "", 0)
    generator = np.random.default_rng(seed)
    lengths = 1 if all(port.declared.steps for port in ports.values()) else SIZES
    for rows in batches:
        for size in range(lengths):
            example = make_example(ports, graph.model, rows=rows, size=size, generator=generator)
            difference = difference_of(_applied(apply, example), outputs_of_run(ports, graph.model, example))
            if difference > worst.difference:
                worst = Parity(difference, example.where, 0)
    if worst.difference > TOLERANCE:
        raise UserError(
            f"expected a graph within {TOLERANCE:g} of the run, got a difference of {worst.difference:.2g} "
            f"({worst.where})"
        )
    return Parity(worst.difference, worst.where, len(batches) * lengths)


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
