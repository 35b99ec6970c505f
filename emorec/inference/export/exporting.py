"""One export, from a run to its folder."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emorec.config.schema import ExportConfig
from emorec.errors import UserError
from emorec.inference.export import torch_files
from emorec.inference.export.card import card_of
from emorec.inference.export.example import Example, make_example
from emorec.inference.export.files import (
    preprocess_text,
    write_labels,
    write_program,
    write_self_test,
    write_tokenizers,
)
from emorec.inference.export.folder import new_folder, require_new
from emorec.inference.export.graph import ExportGraph, check_exportable
from emorec.inference.export.huggingface import write_weights
from emorec.inference.export.onnx_file import DIGEST, Session, onnx_bytes, require_onnx
from emorec.inference.export.parity import Parity, check_parity
from emorec.inference.export.port import Port, ports_of
from emorec.inference.export.pruning import pruned
from emorec.inference.export.quantization import calibration_inputs, compare, quantized
from emorec.inference.export.tensorrt import engine_of, require_tensorrt
from emorec.inference.export.validation import ValidationInputs
from emorec.inference.loaded_run import LoadedRun, load_run
from emorec.inference.run_card import card_header
from emorec.models.emotion_model import EmotionModel
from emorec.runs.backbones import check_checkpoint
from emorec.storage.atomic import strict_json

if TYPE_CHECKING:
    from emorec.encoders.trained import TrainedPart

ONNX, SMALL = "model.onnx", "model.int8.onnx"


@dataclass(frozen=True)
class Exported:
    """A run as a graph, with what it is compared by."""

    run: LoadedRun  # the run
    graph: ExportGraph  # in evaluation mode, on the CPU
    ports: Mapping[str, Port]  # {modality: its port}
    example: Example  # inputs by which the graph is traced, and which the folder's self-test repeats
    preprocess: str  # the text of `preprocess.json`

    @property
    def metadata(self) -> dict[str, str]:
        """What a model file says about its origin."""
        return {DIGEST: sha256(self.preprocess.encode()).hexdigest(), "run": self.run.record.run_id}


def export_run(config: ExportConfig) -> str:
    """Writes the folder of a run, and returns lines that say what is in it.

    Raises:
        UserError: there is no such run, it cannot be exported, or the graph differs from it.
    """
    target = config.to.expanduser().absolute()
    require_new(target)
    write = WRITERS[config.format]
    if config.format not in ("torch", "torchscript"):
        require_onnx()
    if config.format == "tensorrt":
        require_tensorrt()
    run = load_run(config.run, checkpoints=config.paths.checkpoints)
    check_applicable(run, config)
    check_exportable(run.model)  # before anything is trained
    narrow, pruning = (None, None) if config.prune is None else pruned(run, config)
    exported = graph_of(run, narrow or run.model, config)
    with new_folder(target) as folder:
        parity = write(folder, exported)
        lines = [] if config.quantize is None else [_quantize(folder, exported, config)]
        if pruning is not None:
            lines.insert(0, pruning.line())
            (folder / "pruning.json").write_text(strict_json(asdict(pruning)) + "\n")
        (folder / "preprocess.json").write_text(exported.preprocess)
        write_labels(folder, exported.graph)
        write_self_test(folder, exported.graph, exported.ports, exported.example)
        write_tokenizers(folder, exported.ports)
        modalities = [item.name for item in exported.graph.inputs]
        header = card_header(run, modalities, lines) if config.format == "huggingface" else ""
        (folder / "README.md").write_text(header + card_of(run, exported.graph, config.format, lines))
    size = sum(path.stat().st_size for path in target.iterdir()) / 1e6
    line = f"run {run.record.run_id}: {config.format}, {size:.1f} MB  {target}"
    close = f"largest difference from torch {parity}"
    features = [f"{name} is read as features: {port.reason}" for name, port in exported.ports.items() if port.reason]
    return "\n".join([line, *features, close, *lines])


def _quantize(folder: Path, exported: Exported, config: ExportConfig) -> str:
    """Writes `model.int8.onnx` and `quantization.json`; returns a line that compares both models.

    Raises:
        UserError: the run's corpus cannot be read.
    """
    validation = ValidationInputs(exported.run, exported.ports, config)
    content = (folder / ONNX).read_bytes()
    small, method = quantized(content, lambda: calibration_inputs(validation))
    (folder / SMALL).write_bytes(small)
    found = compare({"float32": content, "int8": small}, validation, exported.graph.model.task, method)
    (folder / "quantization.json").write_text(strict_json(asdict(found)) + "\n")
    return found.line()


def check_applicable(run: LoadedRun, config: ExportConfig) -> None:
    """Raises a `UserError` where a run predicts nothing, or a pretrained checkpoint that is read has changed since."""
    if run.task.kind == "self_supervised":
        raise UserError(
            f"expected a run that predicts something, got {run.record.run_id}, which was trained without labels"
        )
    for encoder in run.encoders.values():
        if encoder.mode != "frozen" or config.reads != "features":
            check_checkpoint(run.record, encoder)
        encoder.views = 0


def graph_of(run: LoadedRun, model: EmotionModel, config: ExportConfig) -> Exported:
    """The graph of a run's model, or of one that was made of it.

    Raises:
        UserError: an encoder cannot read media within the graph, as was asked for.
    """
    parts: dict[str, TrainedPart] = dict(model.encoder.items())  # type: ignore[arg-type]
    ports = ports_of(run.encoders, parts, run.widths, config.reads, run.record.feature_specs)
    graph = ExportGraph(model, {name: port.reading for name, port in ports.items()}).eval()
    example = make_example(ports, model, rows=3, size=1, generator=np.random.default_rng(0))
    return Exported(run, graph, ports, example, preprocess_text(graph, ports, run.record.run_id))


def write_onnx(folder: Path, exported: Exported) -> Parity:
    """`model.onnx` and `infer.py`.

    Raises:
        UserError: the graph cannot be expressed in ONNX, or differs from the run.
    """
    content = onnx_bytes(exported.graph, exported.example.tensors, exported.metadata)
    parity = check_parity(exported.graph, exported.ports, Session(content))
    (folder / ONNX).write_bytes(content)
    write_program(folder)
    return parity


def write_torchscript(folder: Path, exported: Exported) -> Parity:
    """`model.pt`; raises as `write_onnx` does."""
    loaded = torch_files.write_torchscript(
        folder / "model.pt", exported.graph, exported.example.tensors, exported.metadata
    )
    return check_parity(exported.graph, exported.ports, loaded)


def write_torch(folder: Path, exported: Exported) -> Parity:
    """`model.pt2`; raises as `write_onnx` does."""
    loaded = torch_files.write_program(
        folder / "model.pt2", exported.graph, exported.example.tensors, exported.metadata
    )
    return check_parity(exported.graph, exported.ports, loaded)


def write_huggingface(folder: Path, exported: Exported) -> Parity:
    """As `write_onnx`, and the weights and the config of the run; raises as it does."""
    write_weights(folder, exported.run, exported.graph)
    return write_onnx(folder, exported)


def write_tensorrt(folder: Path, exported: Exported) -> Parity:
    """As `write_onnx`, and an engine for this machine's GPU; raises as it does."""
    parity = write_onnx(folder, exported)
    (folder / "model.plan").write_bytes(engine_of((folder / ONNX).read_bytes(), exported.graph))
    return parity


WRITERS: Mapping[str, Callable[[Path, Exported], Parity]] = {
    "onnx": write_onnx,
    "torch": write_torch,
    "torchscript": write_torchscript,
    "huggingface": write_huggingface,
    "tensorrt": write_tensorrt,
}
