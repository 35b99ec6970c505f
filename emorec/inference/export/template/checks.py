"""Checks the arrays that infer.py is given against preprocess.json."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

PREPROCESS = json.loads((Path(__file__).resolve().parent / "preprocess.json").read_bytes())


def expect(holds: Any, what: str) -> None:
    """Ends the program with what was expected."""
    if not holds:
        sys.exit(f"expected {what}")


def check(arrays: dict[str, Any]) -> None:
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
