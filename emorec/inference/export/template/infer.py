"""Applies the model of this folder. Needs numpy and onnxruntime; preprocess.json says what the arrays are.

python infer.py                              tests the model: are its outputs those of the run?
python infer.py inputs.npz [model.int8.onnx] prints a line of JSON for each row
"""

import hashlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

FOLDER = Path(__file__).resolve().parent
STATED = (FOLDER / "preprocess.json").read_bytes()
LABELS, LARGEST = json.loads((FOLDER / "labels.json").read_bytes())["labels"], json.loads(STATED)["tolerance"]
CHECKS = runpy.run_path(str(FOLDER / "checks.py"))


def predict(arrays: dict[str, Any], name: str = "model.onnx") -> dict[str, Any]:
    """{output: array} for {input: array}."""
    CHECKS["check"](arrays)
    session = onnxruntime.InferenceSession(str(FOLDER / name), providers=["CPUExecutionProvider"])
    digest = session.get_modelmeta().custom_metadata_map["preprocess_sha256"]
    CHECKS["expect"](digest == hashlib.sha256(STATED).hexdigest(), f"the preprocess.json of {name}, got another one")
    values = session.run(None, {item.name: arrays[item.name] for item in session.get_inputs()})
    return {item.name: value for item, value in zip(session.get_outputs(), values, strict=True)}


def main(words: list[str]) -> int:
    """Predicts the rows of a file, or tests the model; returns the exit code."""
    arrays = dict(np.load(words[0] if words else FOLDER / "selftest.npz"))
    outputs = predict(arrays, *words[1:])
    if not words:
        pairs = [(value, arrays[f"expected/{name}"]) for name, value in outputs.items()]
        worst = max(float(np.max(abs(one - other) / np.maximum(1, abs(other)))) for one, other in pairs)
        print(f"self-test: largest difference {worst:.2g}, expected at most {LARGEST}")
        return 0 if worst <= LARGEST else 1
    kind, rows = next(iter(outputs.items()))
    for row in rows.tolist():
        best = {"class": LABELS[row.index(max(row))]} if kind == "probabilities" else {}
        print(json.dumps({**best, kind: dict(zip(LABELS, row, strict=True))}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
