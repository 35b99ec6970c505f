"""What a model card says of a run: of its data, its results, its limits and its origin. Nothing that is unknown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emorec.inference.loaded_run import LoadedRun
from emorec.runs.results import remarks, scalar_metrics

SPLITS = ("val", "test")
HUB_TASKS = {"text": "text-classification", "audio": "audio-classification", "video": "video-classification"}
HUB_METRICS = ("accuracy", "uar", "macro_f1", "weighted_f1", "ccc", "mae", "pearson")
LIMITS = """\
The model repeats how the raters of its corpus named emotions in recordings of that corpus. It does not measure what a
person feels. Scores fall on other languages, ages, microphones, cameras and settings; test it on your own data first.

Out of scope: decisions about people, and inferring emotions at work or in education, which the European Union's AI Act
(Regulation 2024/1689, Article 5) prohibits but for medical or safety reasons."""
LICENCE = (
    "Not stated by the run. The licences of its corpus and of its pretrained checkpoints bind what was trained on them."
)


def card_header(run: LoadedRun, modalities: Sequence[str], changes: Sequence[str] = ()) -> str:
    """The header of a card on the hub: tags, metrics, and the results of each split, if nothing was changed since."""
    from huggingface_hub import EvalResult, ModelCardData

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


def data_text(run: LoadedRun) -> str:
    """What the run was trained on, as a list."""
    dataset = run.config.get("dataset", {})
    chosen = {key: dataset.get(key) for key in ("task", "protocol", "fold") if dataset.get(key) is not None}
    name = run.record.choices.get("dataset") or str(dataset.get("_target_", "")).rpartition(".")[2]
    stated = {**chosen, **{key: value for key, value in run.record.data.items() if isinstance(value, str | int)}}
    digest = stated.pop("corpus", None)
    lines = [f"- corpus: {name}{f', digest {digest}' if digest else ''}"]
    lines += [f"- {key}: {value}" for key, value in stated.items() if key != "dataset"]
    lines += [f"- {remark}" for remark in remarks(run.record)]
    return "\n".join(lines)


def results_text(run: LoadedRun) -> str:
    """Its scores on validation and test, as a table."""
    scores = scalar_metrics(run.metrics)
    splits = [split for split in SPLITS if any(name.startswith(f"{split}/") for name in scores)]
    names = sorted({name.partition("/")[2] for name in scores if name.partition("/")[0] in splits})
    rows = [f"| | {' | '.join(splits)} |", "|---" * (1 + len(splits)) + "|"]
    for name in names:
        values = (f"{scores[f'{split}/{name}']:.4f}" if f"{split}/{name}" in scores else "" for split in splits)
        rows.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(rows)


def origin_text(run: LoadedRun) -> str:
    """Which run it is, and the command that makes it again, as a list."""
    record = run.record
    versions: Mapping[str, Any] = record.provenance
    commit = versions.get("git_commit") or versions.get("commit")
    lines = [f"- run: {record.run_id}, {record.selected}, seed {record.seed}", f"- trained: {record.started}"]
    words = (without_paths(word) for override in record.overrides for word in [override.partition("=")])
    lines.append(f"- command: `emorec train {' '.join(''.join(word) for word in words)}`")
    lines += [f"- commit of emorec: {commit}"] if commit else []
    return "\n".join(lines)


def without_paths(value: Any) -> Any:
    """Plain data in which the path of a local folder is its last part: it means nothing elsewhere."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
