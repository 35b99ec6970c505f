"""The model card of an export."""

from collections.abc import Sequence

from emorec import __version__
from emorec.inference.export.graph import ExportGraph
from emorec.inference.export.graph_input import MEANING, GraphInput
from emorec.inference.loaded_run import LoadedRun
from emorec.inference.run_card import LICENCE, LIMITS, data_text, origin_text, results_text

OPTIMUM = {"batch": (1, 1, 32), "dialogues": (1, 1, 4), "turns": (1, 8, 64)}  # least, best and most for TensorRT
LOADERS = {  # of the files of torch
    "torch": 'torch.export.load("model.pt2").module()',
    "torchscript": 'torch.jit.load("model.pt")',
}
HUB_FILES = (
    "`model.safetensors` holds the weights of the run by component, and `config.json` its settings; transformers has "
    "no class for them, since layers with GELU and a fusion lie between the encoders and the classes."
)
STEPS = {"features": 64, "tokens": 32, "sound": 48_000, "bands": 300, "frames": 16}


def card_of(run: LoadedRun, graph: ExportGraph, form: str, changes: Sequence[str] = ()) -> str:
    """The text of the folder's `README.md`. `changes` are what was done to the model since its run."""
    record, task = run.record, graph.model.task
    parts = [
        f"# Emotion recognition: run {record.run_id}",
        f"A model of emorec {__version__}, exported as {form}. It predicts `{task.name}` ({task.kind}) from "
        f"{_listed([item.name for item in graph.inputs])}.",
        "## Use",
        _use(form, graph.names),
        "## Inputs",
        _inputs(graph),
        "## Labels",
        ", ".join(f"`{label}`" for label in task.labels),
        "## Data and protocol",
        "\n".join([data_text(run), *_of_graph(run)]),
        "## Results",
        *(
            [
                "These are the scores of the run itself. Its model was changed since:",
                "\n".join(f"- {line}" for line in changes),
            ]
            if changes
            else []
        ),
        results_text(run),
        "## Limits and use that is out of scope",
        LIMITS,
        "## Licence",
        LICENCE,
        "## Origin",
        origin_text(run),
    ]
    if form not in LOADERS:
        parts += ["## TensorRT", _tensorrt(graph)]
    return "\n\n".join(parts) + "\n"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _use(form: str, names: Sequence[str]) -> str:
    said = (
        "`preprocess.json` says how media become these arrays, `selftest.npz` holds some with the outputs of the run."
    )
    if form in LOADERS:
        order = ", ".join(names)
        loader = LOADERS[form]
        return (
            f"```python\nimport torch\n\nmodel = {loader}\nwith torch.inference_mode():\n"
            f"    outputs = model({order})  # tensors\n```\n\n{said}"
        )
    return (
        "```bash\npip install numpy onnxruntime\npython infer.py             # tests the model against its run\n"
        "python infer.py inputs.npz  # a line of JSON for each row\n```\n\n"
        "`preprocess.json` says how media become the arrays of `inputs.npz`; `sha256sum --check sha256.txt` checks the "
        "files." + (f" {HUB_FILES}" if form == "huggingface" else "")
    )


def _inputs(graph: ExportGraph) -> str:
    rows = ["| name | type | axes | |", "|---|---|---|---|"]
    for item in graph.inputs:
        axes = ", ".join(str(axis) for axis in item.axes)
        rows.append(f"| `{item.name}` | {item.dtype} | {axes} | {MEANING[item.kind]}{_bounds(item)} |")
        rows.append(f"| `{item.lengths}` | int64 | batch | how many of the steps are data; 0 where it is missing |")
    if graph.model.context is not None:
        rows.append("| `layout` | int64 | dialogues, turns | rows of the turns of whole dialogues, -1 for padding |")
        rows.append("| `speakers` | int64 | batch | a number for each speaker, -1 where unknown |")
    outputs = _listed([f"`{name}`" for name in graph.outputs])
    return "\n".join(rows) + f"\n\nOutputs: {outputs} (batch, {len(graph.model.task.labels)})."


def _bounds(item: GraphInput) -> str:
    bounds = [f"at least {item.shortest} steps, padded with zeros"] if item.shortest > 1 else []
    bounds += [f"at most {item.longest}"] if item.longest is not None else []
    bounds += [] if item.pads_exactly else ["all of one length, since padding changes the result"]
    return f" ({'; '.join(bounds)})" if bounds else ""


def _of_graph(run: LoadedRun) -> list[str]:
    """Where the graph computes otherwise than the run."""
    lines = []
    if (precision := str(run.config.get("trainer", {}).get("precision", "32"))) != "32":
        lines.append(f"- the run computed in {precision}, the graph computes in float32")
    if run.train_config.model.is_by_speaker:
        lines.append("- the graph normalises by the statistics of the training split, since who speaks is not known")
    return lines


def _tensorrt(graph: ExportGraph) -> str:
    shapes = [",".join(f"{name}:{size}" for name, size in sizes_of(graph, which).items()) for which in range(3)]
    flags = zip(("min", "opt", "max"), shapes, strict=True)
    lines = [
        "trtexec --onnx=model.onnx --saveEngine=model.plan --memPoolSize=workspace:4096",
        *(f"  --{name}Shapes={shape}" for name, shape in flags),
    ]
    return "On a machine with TensorRT and a GPU:\n\n```bash\n" + " \\\n".join(lines) + "\n```"


def sizes_of(graph: ExportGraph, which: int) -> dict[str, str]:
    """{input: its shape, such as 1x64x256} for an engine: the least (0), the best (1) or the largest (2) sizes."""
    sizes = {}
    for item in graph.inputs:
        steps = _steps(item, which)
        batch = OPTIMUM["batch"][which]
        sizes[item.name] = "x".join(str(size) for size in (batch, steps, *item.sizes))
        sizes[item.lengths] = str(batch)
    if graph.model.context is not None:
        sizes["layout"] = f"{OPTIMUM['dialogues'][which]}x{OPTIMUM['turns'][which]}"
        sizes["speakers"] = str(OPTIMUM["batch"][which])
    return sizes


def _steps(item: GraphInput, which: int) -> int:
    if item.steps is not None:
        return item.steps
    most = item.longest or 10 * STEPS[item.kind]
    return (item.shortest, min(STEPS[item.kind], most), most)[which]
