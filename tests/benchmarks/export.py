"""Exported models: the size in 8 bits, and the speed of onnxruntime against torch."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emorec.encoders.picture_part import ConvolutionPart
from emorec.encoders.pixels import Pixels
from emorec.encoders.recurrent import run_lstm
from emorec.encoders.trained import TrainedPart
from emorec.inference.export.example import Example, make_example
from emorec.inference.export.graph import ExportGraph
from emorec.inference.export.graph_input import GraphInput
from emorec.inference.export.onnx_file import Session, onnx_bytes
from emorec.inference.export.port import Port
from emorec.inference.export.quantization import quantized
from emorec.inference.export.reading import Reading
from emorec.models.emotion_model import EmotionModel
from tests.benchmarks.figure import Figure, interleaved, seconds
from tests.inference.export.small_models import context_of, feature_ports, fusion_of, model_of

SIZE, FRAMES, HIDDEN, DEPTH = 224, 4, 1024, 2  # of pictures, clips and the LSTM
CALIBRATED = 2  # clips
ROWS = 8


class EfficientNetLstm(TrainedPart):
    """EfficientNet-B0 of each frame (N, F, S · S · 3), under an LSTM in both directions, with random weights."""

    def __init__(self) -> None:
        super().__init__(pooling="mean")
        from transformers import EfficientNetConfig, EfficientNetModel

        config = EfficientNetConfig(
            image_size=SIZE, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, dropout_rate=0.2
        )
        scale = {"factor": torch.full((3, 1, 1), 1 / 255), "shift": torch.full((3, 1, 1), -0.5)}
        self.pictures = ConvolutionPart(network=EfficientNetModel(config), size=SIZE, **scale)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):  # transformers makes it with a gain of 0
                nn.init.ones_(module.weight)
        self.lstm = nn.LSTM(1280, HIDDEN, num_layers=DEPTH, batch_first=True, bidirectional=True)

    @property
    def frame_dim(self) -> int:
        return 2 * HIDDEN

    def frames(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        vectors, lengths = self.pictures.frames(values, lengths)
        return run_lstm(self.lstm, vectors, lengths), lengths


def _of_pictures() -> tuple[EmotionModel, dict[str, Port]]:
    torch.manual_seed(0)
    part = EfficientNetLstm()
    model = model_of({"video": part.dim}, fusion_of("concat", ("video",)), encoders={"video": part})
    declared = GraphInput(name="video", kind="frames", sizes=(SIZE, SIZE, 3))
    return model, {"video": Port(Pixels(), Reading(declared))}


def _file_of(model: EmotionModel, ports: dict[str, Port]) -> tuple[ExportGraph, bytes]:
    graph = ExportGraph(model, {name: port.reading for name, port in ports.items()}).eval()
    return graph, onnx_bytes(graph, _example(model, ports, 2).tensors, {})


def _example(model: EmotionModel, ports: dict[str, Port], rows: int) -> Example:
    return make_example(ports, model, rows=rows, size=1, generator=np.random.default_rng(0))


def int8_size() -> Figure:
    """EfficientNet-B0 with two layers of a bidirectional LSTM, in float32 against 8 bits."""
    model, ports = _of_pictures()
    _, content = _file_of(model, ports)
    example = _example(model, ports, CALIBRATED).tensors
    small, method = quantized(content, lambda: [example])
    sessions = [Session(content, threads=1), Session(small, threads=1)]
    whole, narrow = (session(example)[0] for session in sessions)
    own, peer = interleaved(*(lambda item=item: seconds(lambda: item(example)) for item in sessions), rounds=2)
    note = (
        f"{len(content) / 1e6:.0f} to {len(small) / 1e6:.0f} MB ({method}), {own / peer:.2f} times as fast, "
        f"probabilities change by up to {np.abs(whole - narrow).max():.1e}"
    )
    return Figure("int8_size", len(content) / len(small), "times", ">= 3.9", note)


def onnx_vs_torch(*, rounds: int = 9) -> list[Figure]:
    """A head on features, and one with a context, by onnxruntime against the same graph in torch; one thread each."""
    torch.manual_seed(0)
    dims = {"text": 768, "audio": 768, "video": 512}
    cases: dict[str, dict[str, Any]] = {
        "concat": {"fusion": fusion_of("concat", tuple(dims))},
        "self_attention": {"fusion": fusion_of("self_attention", tuple(dims), over="time")},
        "bigru": {"fusion": fusion_of("concat", tuple(dims)), "context": context_of("bigru")},
    }
    figures = []
    for name, parts in cases.items():
        model = model_of(dims, parts["fusion"], context=parts.get("context"))
        ports = feature_ports(dims)
        graph, content = _file_of(model, ports)
        figures.append(_speed(f"onnx_vs_torch_{name}", graph, content, _example(model, ports, ROWS), rounds))
    return figures


def _speed(name: str, graph: ExportGraph, content: bytes, example: Example, rounds: int) -> Figure:
    session = Session(content, threads=1)
    tensors = [torch.from_numpy(example.tensors[item]) for item in graph.names]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        own, peer = interleaved(
            lambda: seconds(lambda: [session(example.tensors) for _ in range(20)]) / 20,
            lambda: seconds(lambda: [graph(*tensors) for _ in range(20)]) / 20,
            rounds=rounds,
        )
    torch.set_num_threads(threads)
    return Figure(name, own / peer, "ratio", "", f"{1000 * own:.2f} ms a batch of {ROWS} against {1000 * peer:.2f}")
