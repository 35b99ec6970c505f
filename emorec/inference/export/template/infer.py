"""Applies the model of this folder. Needs numpy and onnxruntime; preprocess.json says what the arrays are.

python infer.py                              tests the model: are its outputs those of the run?
python infer.py inputs.npz [model.int8.onnx] prints a line of JSON for each row
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Arrays = dict[str, Any]
FOLDER = Path(__file__).resolve().parent
STATED = (FOLDER / "preprocess.json").read_bytes()
PREPROCESS, LABELS = json.loads(STATED), json.loads((FOLDER / "labels.json").read_bytes())["labels"]


def expect(holds: Any, what: str) -> None:
    """Ends the program with what was expected."""
    if not holds:
        sys.exit(f"expected {what}")


def check(arrays: Arrays) -> None:
    """Ends the program where {name: array} are not what the model reads."""
    given = []
    for item in PREPROCESS["inputs"]:
        name, axes, least = item["name"], item["axes"], item["shortest"]
        expect({name, item["lengths"]} <= arrays.keys(), f"{name} and {item['lengths']}, got {sorted(arrays)}")
        values, lengths = arrays[name], arrays[item["lengths"]]
        pairs = zip(axes, values.shape, strict=False)
        fits = values.ndim == len(axes) and all(isinstance(axis, str) or axis == size for axis, size in pairs)
        shown = f"{values.dtype} {list(values.shape)}"
        expect(fits and values.dtype == item["dtype"], f"{name} as {item['dtype']} {axes}, got {shown}")
        fits = lengths.dtype == "int64" and lengths.shape == (len(values),) and len(values)
        expect(fits, f"{item['lengths']} as int64 ['batch'], got {lengths.dtype} {list(lengths.shape)}")
        steps = values.shape[1]
        most = min(steps, item["longest"] or steps)
        expect(steps >= least, f"{name} of at least {least} steps, padded with zeros, got {steps}")
        fits = lengths.min() >= 0 and lengths.max() <= most
        expect(fits, f"{item['lengths']} from 0 to {most} (longer ones: cut into windows), got {lengths.tolist()}")
        fits = item["pads_exactly"] or set(lengths.tolist()) <= {0, steps}
        expect(
            fits, f"{item['lengths']} of {steps} or 0, since padding would change the result, got {lengths.tolist()}"
        )
        given.append(lengths)
    expect(len({len(item) for item in given}) == 1, f"one batch, got rows {[len(item) for item in given]}")
    if PREPROCESS["context"] is None:
        expect(np.any(given, axis=0).all(), "a modality in each row, got a row whose lengths are all 0")
    else:
        expect({"layout", "speakers"} <= arrays.keys(), f"layout and speakers, got {sorted(arrays)}")
        known = arrays["layout"][arrays["layout"] >= 0].tolist()
        expect(known == list(range(len(given[0]))), f"a layout with each row once, in order, got {known}")


def predict(arrays: Arrays, name: str = "model.onnx") -> Arrays:
    """{output: array} for {input: array}."""
    check(arrays)
    session = onnxruntime.InferenceSession(str(FOLDER / name), providers=["CPUExecutionProvider"])
    digest = session.get_modelmeta().custom_metadata_map["preprocess_sha256"]
    expect(digest == hashlib.sha256(STATED).hexdigest(), f"the preprocess.json of {name}, got another one")
    found = session.run(None, {item.name: arrays[item.name] for item in session.get_inputs()})
    return {item.name: value for item, value in zip(session.get_outputs(), found, strict=True)}


def main(words: list[str]) -> int:
    """Predicts the rows of a file, or tests the model; returns the exit code."""
    arrays = dict(np.load(words[0] if words else FOLDER / "selftest.npz"))
    outputs = predict(arrays, *words[1:])
    if not words:
        pairs = [(value, arrays[f"expected/{name}"]) for name, value in outputs.items()]
        worst = max(float(np.max(abs(one - other) / np.maximum(1, abs(other)))) for one, other in pairs)
        print(f"self-test: largest difference {worst:.2g}, expected at most {PREPROCESS['tolerance']}")
        return 0 if worst <= PREPROCESS["tolerance"] else 1
    kind, rows = next(iter(outputs.items()))
    for row in rows.tolist():
        best = {"class": LABELS[row.index(max(row))]} if kind == "probabilities" else {}
        print(json.dumps({**best, kind: dict(zip(LABELS, row, strict=True))}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
