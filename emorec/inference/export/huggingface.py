"""A folder that `push_to_hub` takes: weights as safetensors, a config, and results as the hub shows them."""

from pathlib import Path

from emorec import __version__
from emorec.inference.export.graph import ExportGraph
from emorec.inference.loaded_run import LoadedRun
from emorec.inference.run_card import without_paths
from emorec.storage.atomic import strict_json

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def write_weights(folder: Path, run: LoadedRun, graph: ExportGraph) -> None:
    """`model.safetensors`, the run's weights as {component.name: tensor}, and `config.json`."""
    from safetensors.torch import save_file

    weights = {f"{part}.{name}": value for part, own in graph.model.components().items() for name, value in own.items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    labels = graph.model.task.labels
    config = {
        "library_name": "emorec",
        "emorec_version": __version__,
        "run": run.record.run_id,
        "task": run.record.task,
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "encoder": run.config["encoder"],
        "fusion": run.config["fusion"],
        "context": run.config.get("context"),
        "model": {**run.config["model"], "hidden": graph.model.fusion.hidden},
        "feature_specs": run.record.feature_specs,
    }
    (folder / CONFIG).write_text(strict_json(without_paths(config)) + "\n")
