"""The files beside the model: labels, how media become its inputs, and inputs with what the run says about them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emorec.encoders.huggingface_text import HuggingFaceText
from emorec.encoders.vocabulary import WordNumbers
from emorec.inference.export import template
from emorec.inference.export.example import Example, outputs_of_run
from emorec.inference.export.graph import ExportGraph
from emorec.inference.export.parity import TOLERANCE
from emorec.inference.export.port import Port
from emorec.inference.export.settings import TOKENIZER, VOCABULARY
from emorec.storage.atomic import strict_json

VERSION = 1  # of the layout of the folder
CONTEXT = {
    "layout": "int64 [dialogues, turns]: rows of the turns of whole dialogues, in order, -1 for padding",
    "speakers": "int64 [batch]: one number for each speaker of a dialogue, -1 where unknown",
}


def preprocess_text(graph: ExportGraph, ports: Mapping[str, Port], run_id: str) -> str:
    """`preprocess.json`: what the graph reads, and how media become that."""
    inputs = []
    for name, port in ports.items():
        reason = {"why_features": port.reason} if port.reason else {}
        kind = getattr(graph.model.normalisation[name], "kind", "none")
        kind = "train" if kind == "speaker" else kind  # who speaks is not known to the graph
        inputs.append({**port.declared.described(), "normalisation": f"{kind}, in the graph", **reason})
    described: dict[str, Any] = {
        "version": VERSION,
        "run": run_id,
        "inputs": inputs,
        "context": None if graph.model.context is None else CONTEXT,
        "outputs": {name: ["batch", len(graph.model.task.labels)] for name in graph.outputs},
        "tolerance": TOLERANCE,
    }
    return strict_json(described) + "\n"


def write_labels(folder: Path, graph: ExportGraph) -> None:
    """`labels.json`."""
    task = graph.model.task
    labels = {"task": task.name, "kind": task.kind, "labels": list(task.labels)}
    (folder / "labels.json").write_text(strict_json(labels) + "\n")


def write_self_test(folder: Path, graph: ExportGraph, ports: Mapping[str, Port], example: Example) -> None:
    """`selftest.npz`: inputs, and what the run itself computes of them, under `expected/<output>`."""
    found = outputs_of_run(ports, graph.model, example)
    expected = {f"expected/{name}": value for name, value in zip(graph.outputs, found, strict=True)}
    arrays: dict[str, Any] = {**example.tensors, **expected}
    np.savez_compressed(folder / "selftest.npz", **arrays)


def write_program(folder: Path) -> None:
    """`infer.py`, and `checks.py`, which it runs."""
    for name in ("infer.py", "checks.py"):
        shutil.copyfile(Path(template.__path__[0]) / name, folder / name)


def write_tokenizers(folder: Path, ports: Mapping[str, Port]) -> None:
    """`tokenizer.json` or `vocabulary.json` of an encoder of text that reads tokens."""
    for port in ports.values():
        stored, encoder = port.encoder.stored(), port.encoder
        if port.declared.kind != "tokens":
            continue
        if isinstance(stored, WordNumbers):
            words = list(stored.words or ())
            (folder / VOCABULARY).write_text(json.dumps(words, ensure_ascii=False) + "\n")
        elif isinstance(encoder, HuggingFaceText):
            (folder / TOKENIZER).write_text(encoder.tokenizer_text())
