"""A folder that `push_to_hub` takes: weights as safetensors, a config, and results as the hub shows them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emorec import __version__
from emorec.inference.export.graph import ExportGraph
from emorec.inference.loaded_run import LoadedRun
from emorec.runs.results import scalar_metrics
from emorec.storage.atomic import strict_json

HUB_TASKS = {"text": "text-classification", "audio": "audio-classification", "video": "video-classification"}
HUB_METRICS = ("accuracy", "uar", "macro_f1", "weighted_f1", "ccc", "mae", "pearson")
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


def without_paths(value: Any) -> Any:
    """Plain data in which the path of a local folder is its last part: it means nothing elsewhere."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def card_header(run: LoadedRun, graph: ExportGraph, changes: Sequence[str] = ()) -> str:
    """The header of a card on the hub: tags, metrics, and the results of each split, if nothing was changed since."""
    from huggingface_hub import EvalResult, ModelCardData

    modalities = [item.name for item in graph.inputs]
    task = HUB_TASKS[modalities[0]] if len(modalities) == 1 else "other"
    corpus = run.record.choices.get("dataset") or "unknown"
    scores = scalar_metrics(run.metrics)
    results = [
        EvalResult(
            task_type=task,
            dataset_type=corpus,
            dataset_name=corpus,
            dataset_split=name.partition("/")[0],
            metric_type=name.partition("/")[2],
            metric_value=round(value, 6),
        )
        for name, value in sorted(scores.items())
        if name.partition("/")[2] in HUB_METRICS and not changes
    ]
    data = ModelCardData(
        library_name="emorec",
        pipeline_tag=None if task == "other" else task,
        tags=["emotion-recognition", *modalities],
        metrics=sorted({result.metric_type for result in results}),
        model_name=f"emorec-{run.record.run_id}",
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n"
