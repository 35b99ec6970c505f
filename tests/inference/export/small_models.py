"""Small models of any fusion, context or trained encoder, with random weights, as they are exported."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import nn

from emorec.config.instantiation import instantiate, locate
from emorec.context.context import Context
from emorec.datasets.utterance import Task
from emorec.encoders.encoder import Encoder
from emorec.encoders.log_mel import LogMel
from emorec.encoders.trained import TrainedPart
from emorec.fusion.fusion import Fusion
from emorec.inference.export.example import ROWS, make_example
from emorec.inference.export.graph import ExportGraph
from emorec.inference.export.graph_input import GraphInput
from emorec.inference.export.onnx_file import Session, onnx_bytes
from emorec.inference.export.parity import Parity, check_parity
from emorec.inference.export.port import Port, ports_of
from emorec.inference.export.reading import Reading
from emorec.losses.cross_entropy import CrossEntropy
from emorec.models.emotion_model import EmotionModel
from emorec.models.heads import Head
from emorec.models.layer_sum import LayerSum
from emorec.models.normalisation import Normalisation
from emorec.models.projection import Projection
from tests.discovery import node

HIDDEN = 16
EMOTION = Task(name="emotion", labels=("happy", "sad", "angry"))
DIMS = {"text": 6, "audio": 10, "video": 3}


def fusion_of(name: str, modalities: tuple[str, ...], **changes: Any) -> Fusion:
    settings = node("fusion", name, **changes)
    derived = (
        {"outputs": len(EMOTION.labels)} if "outputs" in signature(locate(settings["_target_"])).parameters else {}
    )
    return instantiate(
        settings, where="fusion", kind=Fusion, dims=dict.fromkeys(modalities, HIDDEN), hidden=HIDDEN, **derived
    )


def context_of(name: str, **changes: Any) -> Context:
    return instantiate(node("context", name, **changes), where="context", kind=Context, hidden=HIDDEN)


def feature_ports(dims: Mapping[str, int]) -> dict[str, Port]:
    """Ports of frozen features."""
    return {
        name: Port(LogMel(), Reading(GraphInput(name=name, kind="features", sizes=(dim,))))
        for name, dim in dims.items()
    }


def model_of(
    dims: Mapping[str, int],
    fusion: Fusion,
    *,
    context: Context | None = None,
    encoders: Mapping[str, TrainedPart] | None = None,
    layers: Mapping[str, int] | None = None,
) -> EmotionModel:
    """A model in evaluation mode, with statistics as after some training."""
    parts, counts = dict(encoders or {}), dict(layers or {})
    normalisations: dict[str, nn.Module] = {}
    for name, dim in dims.items():
        width = parts[name].standardised if name in parts else dim
        normalisations[name] = Normalisation(kind="train" if width else "none", dim=width)
        if width:
            normalisations[name].fit(0.5 * torch.randn(width), torch.rand(width) + 0.5)
    model = EmotionModel(
        task=EMOTION,
        encoders=dict(parts),
        normalisations=normalisations,
        layer_sums={name: LayerSum(count) for name, count in counts.items() if count > 1},
        projections={
            name: Projection(dim=dim // counts.get(name, 1), hidden=HIDDEN, dropout=0.3) for name, dim in dims.items()
        },
        fusion=fusion,
        context=context,
        head=None if fusion.classifies else Head(hidden=HIDDEN, outputs=len(EMOTION.labels), dropout=0.3),
        loss=CrossEntropy(task=EMOTION.name),
    )
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def model_of_encoder(encoder: Encoder, asked: str | None) -> tuple[EmotionModel, dict[str, Port]]:
    """A model on one encoder, and its ports."""
    part = encoder.trained_part()
    parts = {} if part is None else {encoder.modality: part}
    layers = len(encoder.layers) if part is None else part.layer_count
    width = encoder.dim * len(encoder.layers) if part is None else part.dim
    widths = {encoder.modality: width}
    model = model_of(
        widths, fusion_of("concat", (encoder.modality,)), encoders=parts, layers={encoder.modality: layers}
    )
    return model, ports_of({encoder.modality: encoder}, parts, widths, asked)  # type: ignore[arg-type]


def exported(model: EmotionModel, ports: Mapping[str, Port], metadata: Mapping[str, str] | None = None) -> bytes:
    graph = ExportGraph(model, {name: port.reading for name, port in ports.items()}).eval()
    example = make_example(ports, model, rows=3, size=1, generator=np.random.default_rng(1))
    return onnx_bytes(graph, example.tensors, metadata or {})


def parity_of(model: EmotionModel, ports: Mapping[str, Port], batches: Sequence[int] = ROWS) -> Parity:
    """Exports a model and compares it at all sizes."""
    graph = ExportGraph(model, {name: port.reading for name, port in ports.items()}).eval()
    return check_parity(graph, ports, Session(exported(model, ports), threads=1), batches=batches)
