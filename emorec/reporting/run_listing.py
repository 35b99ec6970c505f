"""Runs as tables and pages of text."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from emorec.errors import UserError
from emorec.markdown import markdown_table
from emorec.runs.checkpoint_store import NEURAL, CheckpointStore, RunRecord
from emorec.runs.results import read_metrics, scalar_metrics

LIBRARIES = ("torch", "lightning", "transformers")  # whose versions a page shows
SCORES = ("precision", "recall", "f1")  # of each class


def runs_table(store: CheckpointStore, records: Iterable[RunRecord]) -> str:
    """A table of runs: status, composed choices and validation score."""
    rows = []
    for record in records:
        folder = store.folder(record.run_id)
        try:
            metrics = scalar_metrics(read_metrics(folder))
        except UserError as error:
            store.warn(folder, str(error))
            metrics = {}
        monitor = f"val/{record.task.get('monitor')}"
        score = f"{monitor}={metrics[monitor]:.4f}" if monitor in metrics else ""
        fold = "" if record.fold is None else str(record.fold)
        choices = " ".join(_shown_choices(record.choices))
        rows.append([record.run_id, record.status, record.started, choices, str(record.seed), fold, score])
    return markdown_table(["run", "status", "started", "choices", "seed", "fold", "validation"], rows)


def _shown_choices(choices: Mapping[str, str]) -> list[str]:
    encoders = [choices[key] for key in sorted(choices) if key.startswith("encoder/") and choices[key] != "none"]
    head = choices.get("head", NEURAL)
    parts = [choices[key] for key in ("fusion", "loss") if key in choices] if head == NEURAL else [head]
    return [choices.get("dataset", ""), *encoders, *parts]


def run_page(record: RunRecord, metrics: Mapping[str, Any], folder: Path) -> str:
    """What a run was, how it went and what came out, for people; `run.json` has it all."""
    facts = {name: text for name, text in _facts(record).items() if text}
    lines = [f"run {record.run_id}: {record.status}", *(f"  {name:<12}{text}" for name, text in facts.items())]
    if numbers := scalar_metrics(metrics):
        lines += ["", _metrics_table(numbers)]
    for key, classes in metrics.items():
        split, _, kind = key.partition("/")
        if kind == "per_class" and isinstance(classes, dict):
            rows = [
                [label, *(_number(scores.get(name)) for name in SCORES), str(scores.get("support", "–"))]
                for label, scores in classes.items()
                if isinstance(scores, dict)
            ]
            lines += ["", split, markdown_table(["class", *SCORES, "support"], rows)]
    return "\n".join([*lines, "", str(folder)])


def _facts(record: RunRecord) -> dict[str, str]:
    """{what: its text} of a record; an empty text is not shown."""
    data, made_by, counts = record.data, record.provenance, record.data.get("utterances", {})
    commit, libraries = str(made_by.get("git_commit") or ""), made_by.get("libraries", {})
    versions = [f"{name} {libraries[name]}" for name in LIBRARIES if name in libraries]
    best = "" if record.best_epoch is None else f", {record.selected} by val/{record.task.get('monitor')}"
    return {
        "corpus": ", ".join(str(data[key]) for key in ("dataset", "protocol") if key in data),
        "task": f"{record.task.get('name')}: {', '.join(map(str, record.task.get('labels') or ['a value']))}",
        "seed, fold": f"{record.seed}, {'none' if record.fold is None else record.fold}",
        "choices": " ".join(_shown_choices(record.choices)),
        "overrides": " ".join(record.overrides),
        "utterances": ", ".join(f"{split} {count}" for split, count in counts.items()),
        "left out": f"{data['left_out']} utterances" if data.get("left_out") else "",
        "bad media": ", ".join(f"{modality} {count}" for modality, count in data.get("bad_media", {}).items()),
        "started": f"{record.started}{f', ended {record.ended}' if record.ended else ''}",
        "starts": f"{record.attempts}, {record.restarts} from scratch again" if record.attempts > 1 else "",
        "epochs": f"{record.epochs}{best}" if record.epochs else "",
        "seconds": ", ".join(f"{step} {seconds:.1f}" for step, seconds in record.timings.items()),
        "test read": ", ".join(f"{read.get('time')} ({read.get('why')})" for read in record.test_reads),
        "features": ", ".join(f"{modality} {name}" for modality, name in record.features.items()),
        "made by": ", ".join([f"emorec {made_by.get('emorec')} {commit[:12]}".strip(), *versions]) if made_by else "",
        "tags": ", ".join(record.tags),
        "notes": record.notes or "",
        "error": record.error or "",
    }


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "–"


def _metrics_table(numbers: Mapping[str, float]) -> str:
    """A row for each metric, a column for each split."""
    splits = list(dict.fromkeys(key.partition("/")[0] for key in numbers))
    names = dict.fromkeys(key.partition("/")[2] for key in numbers)
    texts = {key: f"{value:.4f}" for key, value in numbers.items()}
    rows = [[name, *(texts.get(f"{split}/{name}", "–") for split in splits)] for name in names]
    return markdown_table(["metric", *splits], rows)
