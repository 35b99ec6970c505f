"""ONNX: the graph as a file, and its session in onnxruntime."""

import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emorec.errors import UserError
from emorec.inference.export.example import Array
from emorec.inference.export.graph import ExportGraph

OPSET = 17
LEAST_WEIGHTS = 64  # numbers of a tensor of weights
DIGEST = "preprocess_sha256"  # key of the metadata


def require_onnx() -> None:
    """Raises a `UserError` where a package of the extra `onnx` is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"expected the packages onnx and onnxruntime for format=onnx, got none of {error.name}; "
            "pip install 'emorec[onnx]'"
        ) from error


@contextmanager
def plain_attention() -> Iterator[None]:
    """Within the block attention has no fast path, which no format can express, and tracing does not warn."""
    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)


def onnx_bytes(graph: ExportGraph, example: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """The graph as an ONNX file, with batch, time and turns of any size.

    It is traced: torch's newer exporter fixes the time axis of recurrent layers.

    Args:
        graph: in evaluation mode, on the CPU.
        example: {name: input} of at least two rows and steps, with padding.
        metadata: {key: text} that the file carries.

    Raises:
        UserError: a part of the model cannot be expressed in ONNX.
    """
    import onnx

    tensors = tuple(torch.from_numpy(example[name]) for name in graph.names)
    stream = io.BytesIO()
    with plain_attention(), torch.no_grad(), _silent_stderr():
        try:
            torch.onnx.export(
                graph,
                tensors,
                stream,  # type: ignore[arg-type]
                input_names=graph.names,
                output_names=graph.outputs,
                dynamic_axes=graph.axes,
                opset_version=OPSET,
                dynamo=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise UserError(f"expected a model that can be expressed in ONNX, got one that cannot: {error}") from error
    model = onnx.load_from_string(stream.getvalue())
    _name_weights(model.graph)
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _name_weights(graph: Any) -> None:
    """Turns constants with many numbers into initializers: weights, as tools that change a file know them."""
    for node in list(graph.node):
        if node.op_type != "Constant" or node.attribute[0].name != "value":
            continue
        tensor = node.attribute[0].t
        if np.prod(tensor.dims) < LEAST_WEIGHTS:
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Within the block nothing reaches stderr, to which torch writes advice from C++; errors are exceptions."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class Session:
    """An ONNX file in onnxruntime, on the CPU.

    Args:
        content: the file, or its path.
        threads: of one operator; 0 for all cores.
    """

    def __init__(self, content: bytes | Path, *, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        given = content if isinstance(content, bytes) else str(content)
        self._session: Any = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])

    def __call__(self, tensors: Mapping[str, Array]) -> tuple[Array, ...]:
        """The outputs for {name: input}; what the graph does not need is left out."""
        given = {item.name: tensors[item.name] for item in self._session.get_inputs()}
        return tuple(np.asarray(item) for item in self._session.run(None, given))
