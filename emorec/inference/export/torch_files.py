"""The graph as a file of torch: TorchScript, or a program of `torch.export`."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emorec.errors import UserError, first_line
from emorec.inference.export.example import Array
from emorec.inference.export.graph import ExportGraph
from emorec.inference.export.onnx_file import plain_attention


class Loaded:
    """A file of torch that was read again.

    Args:
        module: takes tensors in the order of `names`.
        names: of the inputs.
    """

    def __init__(self, module: Any, names: list[str]) -> None:
        self.module, self.names = module, names

    def __call__(self, tensors: Mapping[str, Array]) -> tuple[Array, ...]:
        """The outputs for {name: input}."""
        with torch.inference_mode():
            found = self.module(*(torch.from_numpy(tensors[name]) for name in self.names))
        return tuple(item.numpy() for item in found)


def write_torchscript(
    path: Path, graph: ExportGraph, example: Mapping[str, Array], metadata: Mapping[str, str]
) -> Loaded:
    """Traces the graph into a file that `torch.jit.load` reads, in Python and C++; returns it as it was read again.

    Raises:
        UserError: a part of the model cannot be traced.
    """
    tensors = tuple(torch.from_numpy(example[name]) for name in graph.names)
    graph.model._jit_is_scripting = True  # else Lightning refuses to be looked at without a trainer
    with plain_attention(), torch.no_grad():
        try:
            traced: Any = torch.jit.trace(graph, tensors, check_trace=False)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise UserError(f"expected a model that can be traced, got one that cannot: {error}") from error
    torch.jit.save(traced, path, _extra_files=dict(metadata))  # type: ignore[no-untyped-call]
    return Loaded(torch.jit.load(path), graph.names)  # type: ignore[no-untyped-call]


def write_program(path: Path, graph: ExportGraph, example: Mapping[str, Array], metadata: Mapping[str, str]) -> Loaded:
    """Writes a file that `torch.export.load` reads; returns it as it was read again.

    Raises:
        UserError: the model has a recurrent layer, whose time axis `torch.export` fixes, or cannot be exported.
    """
    check_no_recurrence(graph)
    tensors = tuple(torch.from_numpy(example[name]) for name in graph.names)
    named: dict[str, Any] = {}
    shapes = []
    for name in graph.names:
        axes = graph.axes[name]
        shapes.append({number: named.setdefault(axis, _dimension(graph, axis)) for number, axis in axes.items()})
    with plain_attention(), torch.no_grad():
        try:
            program = torch.export.export(graph, tensors, dynamic_shapes={"tensors": tuple(shapes)}, strict=False)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise UserError(
                "format: expected onnx or torchscript for a model that torch.export refuses, got torch: "
                f"{first_line(error)[:300]}"
            ) from error
    torch.export.save(program, path, extra_files=dict(metadata))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that weights are not copied
        return Loaded(torch.export.load(path).module(), graph.names)


def _dimension(graph: ExportGraph, axis: str) -> Any:
    """A dimension of any size, or within the bounds of an input."""
    bounds = {item.axes[1]: (item.shortest, item.longest) for item in graph.inputs}
    least, most = bounds.get(axis, (1, None))
    return torch.export.Dim(axis, min=least, max=most)


def check_no_recurrence(graph: nn.Module) -> None:
    """Raises a `UserError` where a graph has LSTM or GRU layers."""
    found = sorted({type(part).__name__ for part in graph.modules() if isinstance(part, nn.RNNBase)})
    if found:
        raise UserError(
            f"format: expected onnx or torchscript for a model with {' and '.join(found)} layers, got torch: "
            "torch.export would fix their number of time steps"
        )
