"""ONNX with weights of 8 bits: dynamic, or of convolutional networks static, calibrated on validation."""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emorec.datasets.utterance import Task
from emorec.inference.export.example import Array
from emorec.inference.export.onnx_file import Session
from emorec.inference.export.validation import LabelledInputs
from emorec.metrics.classification import confusion_matrix, uar
from emorec.metrics.regression import concordance

DYNAMIC = ("MatMul", "Gemm", "LSTM", "Attention", "Gather")  # Gather: tables of embeddings
WEIGHTED = ("Conv", "MatMul", "Gemm")
BETWEEN = ("Sigmoid", "Mul", "Pad", "GlobalAveragePool")  # of convolutional networks with SiLU: all stays in 8 bits
BOUNDS = ("Relu", "Clip")  # after a convolution: the 8 bits are for what they leave, not for what they cut off
CLIPS = 200  # that convolutions are calibrated on
ROUNDS = 7  # of measuring the time
EXACT = ("/front/", "/spectrogram/")  # in the names of nodes that stay as they are: log mel bands


@dataclass(frozen=True)
class Quantization:
    """What 8 bits change."""

    method: str  # which operators were quantised, and how
    bytes: dict[str, int]  # {"float32" or "int8": size of the file}
    size_ratio: float  # how many times smaller the file is
    score: str  # name of the score on validation
    scores: dict[str, float]  # {"float32" or "int8": the score}
    utterances: int  # number of those that were scored
    seconds: dict[str, float]  # {"float32" or "int8": median time of a batch}
    speed_ratio: float  # how many times faster it is on this machine's CPU
    batch: int  # utterances of this batch

    def line(self) -> str:
        """It in words."""
        sizes = f"{self.bytes['float32'] / 1e6:.2f} to {self.bytes['int8'] / 1e6:.2f} MB"
        scores = f"{self.scores['float32']:.4f} to {self.scores['int8']:.4f}"
        return (
            f"int8 ({self.method}): {self.size_ratio:.2f} times smaller ({sizes}), val/{self.score} {scores} "
            f"({self.utterances} utterances), {self.speed_ratio:.2f} times as fast (batches of {self.batch})"
        )


def quantized(content: bytes, inputs: Callable[[], Iterable[Mapping[str, Array]]]) -> tuple[bytes, str]:
    """An ONNX file with weights of 8 bits, and how that was done.

    Args:
        content: the file in float32.
        inputs: gives batches {name: input} to calibrate convolutions with.
    """
    import onnx

    model = onnx.load_from_string(content)
    with tempfile.TemporaryDirectory(prefix="emorec_export_") as folder, without_advice():
        method = _quantize(model, Path(folder), inputs)
        small = onnx.load(Path(folder) / "small.onnx")
    _shorten_names(small.graph)
    del small.metadata_props[:]
    small.metadata_props.extend(model.metadata_props)
    result: bytes = small.SerializeToString()
    return result, method


def _shorten_names(graph: Any) -> None:
    """Renames everything but inputs and outputs: after quantisation names are a good part of a small file."""
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        return  # a graph within it would name what is outside
    kept = {item.name for item in (*graph.input, *graph.output)} | {""}
    short: dict[str, str] = {}

    def renamed(name: str) -> str:
        return name if name in kept else short.setdefault(name, f"t{len(short)}")

    for number, node in enumerate(graph.node):
        node.name, node.doc_string = f"n{number}", ""
        for names in (node.input, node.output):
            names[:] = [renamed(name) for name in names]
    for item in graph.initializer:
        item.name = renamed(item.name)
    del graph.value_info[:]


@contextmanager
def without_advice() -> Iterator[None]:
    """Within the block onnxruntime's advice, which it gives by the root logger, is not printed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _quantize(model: Any, folder: Path, inputs: Callable[[], Iterable[Mapping[str, Array]]]) -> str:
    """Writes `small.onnx` and returns how it was made."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exact = [node.name for node in model.graph.node if any(part in node.name for part in EXACT)]
    options: dict[str, Any] = {"per_channel": True, "reduce_range": not has_vnni(), "nodes_to_exclude": exact}
    last = folder / "small.onnx"
    if not _is_convolutional(model, exact):
        quantize_dynamic(model, last, op_types_to_quantize=list(DYNAMIC), weight_type=QuantType.QInt8, **options)
        return "dynamic"
    middle = folder / "static.onnx"
    _quantize_convolutions(model, middle, inputs, options)
    rest = [name for name in DYNAMIC if name not in WEIGHTED]
    quantize_dynamic(middle, last, op_types_to_quantize=rest, weight_type=QuantType.QInt8, **options)
    return f"static after up to {CLIPS} clips, recurrent layers dynamic"


def _quantize_convolutions(
    model: Any, path: Path, inputs: Callable[[], Iterable[Mapping[str, Array]]], options: Mapping[str, Any]
) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    excluded = set(options["nodes_to_exclude"])
    nodes = [name for name in static_nodes(model.graph) if name not in excluded]
    quantize_static(
        model,
        path,
        _Calibration(inputs(), {item.name for item in model.graph.input}),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=[*WEIGHTED, *BETWEEN, *BOUNDS],
        nodes_to_quantize=nodes,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"MatMulConstBOnly": True},
        **options,
    )


def static_nodes(graph: Any) -> list[str]:
    """The names of the nodes that static quantisation changes: those with weights, gates, and what lies between."""
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    fixed = {item.name for item in graph.initializer} | {name for name, kind in made_by.items() if kind == "Constant"}

    def is_static(node: Any) -> bool:
        if node.op_type == "Mul":
            return "Sigmoid" in [made_by.get(name) for name in node.input]
        if node.op_type in BOUNDS:
            return made_by.get(node.input[0]) == "Conv"
        if node.op_type == "Pad":
            return node.input[1] in fixed
        return node.op_type in (*WEIGHTED, *BETWEEN)

    return [node.name for node in graph.node if is_static(node)]


def _is_convolutional(model: Any, exact: list[str]) -> bool:
    """Whether more weights are those of convolutions than of other layers that static quantisation changes.

    Of other networks the dynamic one changes outputs less.
    """
    sizes = {item.name: int(np.prod(item.dims)) for item in model.graph.initializer}
    counts = dict.fromkeys(WEIGHTED, 0)
    for node in model.graph.node:
        if node.op_type in WEIGHTED and node.name not in exact:
            counts[node.op_type] += sum(sizes.get(name, 0) for name in node.input)
    return 2 * counts["Conv"] > sum(counts.values())


def has_vnni() -> bool:
    """Whether the CPU multiplies numbers of 8 bits without overflow; else weights take 7 bits."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


class _Calibration:
    """Batches one after the other, as onnxruntime asks for them.

    Args:
        batches: {name: input}.
        names: of the inputs that the graph reads.
    """

    def __init__(self, batches: Iterable[Mapping[str, Array]], names: set[str]) -> None:
        self._batches, self._names = iter(batches), names

    def get_next(self) -> dict[str, Array] | None:
        """The next batch; `None` after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {name: value for name, value in batch.items() if name in self._names}


def calibration_inputs(batches: Iterable[LabelledInputs]) -> Iterator[dict[str, Array]]:
    """The inputs of the first batches, of `CLIPS` utterances together."""
    count = 0
    for batch in batches:
        if count >= CLIPS:
            return
        count += len(batch.target)
        yield batch.tensors


def compare(
    content: Mapping[str, bytes], batches: Iterable[LabelledInputs], task: Task, method: str, *, threads: int = 0
) -> Quantization:
    """Compares {"float32": file, "int8": file} on the validation split."""
    sessions = {name: Session(file, threads=threads) for name, file in content.items()}
    found: dict[str, list[Array]] = {name: [] for name in sessions}
    targets: list[Array] = []
    first: LabelledInputs | None = None
    for batch in batches:
        first = first or batch
        targets.append(batch.target[batch.known])
        for name, session in sessions.items():
            found[name].append(session(batch.tensors)[0][batch.known])
    assert first is not None
    target = np.concatenate(targets)
    score = "ccc" if task.kind == "regression" else "uar"
    seconds = _seconds(sessions, first.tensors)
    sizes = {name: len(file) for name, file in content.items()}
    return Quantization(
        method=method,
        bytes=sizes,
        size_ratio=sizes["float32"] / sizes["int8"],
        score=score,
        scores={name: _score(task, np.concatenate(values), target) for name, values in found.items()},
        utterances=len(target),
        seconds=seconds,
        speed_ratio=seconds["float32"] / seconds["int8"],
        batch=len(first.target),
    )


def _score(task: Task, outputs: Array, target: Array) -> float:
    """The score of probabilities (N, C), or of values (N, K), for targets (N,) or (N, K)."""
    values, wanted = torch.from_numpy(outputs), torch.from_numpy(target)
    if task.kind == "regression":
        pairs = zip(wanted.reshape(len(wanted), -1).T, values.T, strict=True)
        return float(torch.stack([concordance(*pair) for pair in pairs]).mean())
    return float(uar(confusion_matrix(wanted, values.argmax(1), len(task.labels))))


def _seconds(sessions: Mapping[str, Session], tensors: Mapping[str, Array]) -> dict[str, float]:
    """{name: median time of a batch}, measured in turn."""
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS + 1):
        for name, session in sessions.items():
            started = time.perf_counter()
            session(tensors)
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}
