"""Several runs as one: the mean of their probabilities for the same utterances."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from emorec.batch import IGNORED
from emorec.config.composition import Composed
from emorec.config.schema import EvaluateConfig
from emorec.datasets.utterance import Task, Utterance
from emorec.errors import UserError, raise_problems
from emorec.models.builder import make_metrics
from emorec.models.emotion_model import Predictions
from emorec.reporting.ensembles import ensemble
from emorec.runs.checkpoint_store import ENSEMBLES, CheckpointStore, RunRecord, stored_task
from emorec.runs.results import SHOWN, metric_text, read_metrics, remarks, scalar_metrics, write_results
from emorec.runs.stored_predictions import StoredPredictions, read_predictions
from emorec.storage.atomic import write_json
from emorec.storage.digests import digest_of
from emorec.training.evaluation import evaluate_run


@dataclass(frozen=True)
class Member:
    """One of the runs, with what it predicts for the split."""

    record: RunRecord
    folder: Path  # of the run, or of its evaluation on another corpus
    predictions: StoredPredictions
    corpus: str  # digest

    def line(self, names: Sequence[str]) -> str:
        """Its results by itself."""
        metrics = scalar_metrics(read_metrics(self.folder))
        return "  ".join([f"run {self.record.run_id}", *(metric_text(name, metrics) for name in names)])


def evaluate_runs(
    composed: Composed[EvaluateConfig], locations: Mapping[str, str | int], models: Mapping[str, str] | None = None
) -> str:
    """Scores the mean of what several runs predict; returns a line for each run and one for all.

    What the runs have stored of the split is read. On another corpus each is evaluated first. Metrics, predictions and
    the members are written to `ensembles/<digest>/` of the store.

    Args:
        composed: the config of the command, with `runs`.
        locations: see `evaluate_run`.
        models: see `evaluate_run`.

    Raises:
        UserError: the runs have no common utterances, targets and classes, or one was trained on the utterances.
    """
    asked, members = composed.config, _members(composed, locations, models or {})
    joined, task = ensemble([member.predictions for member in members]), stored_task(members[0].record.task)
    what: dict[str, Any] = {"split": asked.split, "corpus": members[0].corpus}
    if asked.missing.rate:
        what["missing"] = [asked.missing.rate, asked.missing.seed]
    what["runs"] = {member.record.run_id: digest_of(member.record.weights) for member in members}
    digest = digest_of(what)[:12]
    target = asked.paths.checkpoints / ENSEMBLES / digest
    utterances = [
        Utterance(id=name, dataset="", targets={}, speaker=speaker, dialogue=dialogue)
        for name, speaker, dialogue in zip(joined.id, joined.speaker, joined.dialogue, strict=True)
    ]
    results: dict[str, Predictions] = {asked.split: _predictions(joined, task, make_metrics(asked, task))}
    metrics = scalar_metrics(write_results(target, results, task, utterances=utterances))
    write_json(target / "ensemble.json", what)
    names = [f"{asked.split}/{name}" for name in SHOWN[task.kind]]
    notes = dict.fromkeys(note for member in members for note in remarks(member.record))
    counts = [f"ensemble {digest}", f"runs={len(members)}", f"utterances={len(joined)}"]
    line = "  ".join([*counts, *(metric_text(name, metrics) for name in names), *notes, str(target)])
    return "\n".join([*(member.line(names) for member in members), line])


def _members(
    composed: Composed[EvaluateConfig], locations: Mapping[str, str | int], models: Mapping[str, str]
) -> list[Member]:
    """The runs with their predictions: those that they have stored, or those of an evaluation now."""
    asked = composed.config
    store = CheckpointStore(asked.paths.checkpoints)
    located = [store.locate(name) for name in asked.runs]
    _check(located, split=asked.split, own=asked.dataset is None)
    members = []
    for record, folder in located:
        source, corpus = folder, str(record.data.get("corpus", ""))
        if asked.dataset is not None or asked.split == "train" or asked.missing.rate:
            found = evaluate_run(composed.with_values(run=str(folder), runs=[]), locations, models)
            source, corpus = found.target, found.data.manifest.digest
        members.append(Member(record, source, _stored(record, source, asked.split), corpus))
    return members


def _check(located: Sequence[tuple[RunRecord, Path]], *, split: str, own: bool) -> None:
    """Raises a `UserError` with the reasons why runs cannot be averaged. `own`: on their own corpus."""
    (first, _), *others = located
    problems = []
    if len({record.run_id for record, _ in located}) < len(located):
        problems.append(f"expected each run once, got {[record.run_id for record, _ in located]}")
    for record, _ in others:
        for key in ("name", "kind", "labels"):
            if record.task.get(key) != first.task.get(key):
                problems.append(
                    f"expected a task with {key} {first.task.get(key)!r}, that of {first.run_id}, got "
                    f"{record.task.get(key)!r} ({record.run_id})"
                )
        if own and record.data.get("corpus") != first.data.get("corpus"):
            problems.append(
                f"expected runs on the corpus of {first.run_id}, got another one, or another version "
                f"({record.run_id}: {record.data.get('dataset')}); dataset=… names one to evaluate all of them on"
            )
    if own and split == "all":
        problems.append("split: expected train, val or test on the runs' own corpus, got 'all'")
    raise_problems("runs", problems)


def _stored(record: RunRecord, folder: Path, split: str) -> StoredPredictions:
    labels = record.task["labels"] if record.task["kind"] == "classification" else ()
    found = read_predictions(folder, labels)
    if split not in found:
        hint = "; the same emorec train without test=false reads it" if split == "test" else ""
        raise UserError(f"expected predictions for {split} of run {record.run_id}, got {sorted(found)}{hint}")
    return found[split]


def _predictions(joined: StoredPredictions, task: Task, metrics: Mapping[str, Any]) -> Predictions:
    """The mean probabilities as a model's predictions: their logarithms are logits with the same softmax."""
    if task.kind == "regression":
        logits = torch.tensor(joined.predicted, dtype=torch.float32)[:, None]
        target = torch.tensor(joined.target, dtype=torch.float32)
        known = ~target.isnan()
    else:
        probabilities = torch.from_numpy(joined.probabilities)
        logits = probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()
        target = torch.tensor(joined.target)
        known = target >= 0
        target = target.where(known, IGNORED)
    return Predictions(tuple(joined.id.tolist()), logits, target, scores=_scores(logits, target, known, task, metrics))


def _scores(logits: Tensor, target: Tensor, known: Tensor, task: Task, metrics: Mapping[str, Any]) -> dict[str, float]:
    """`loss` and the metrics; all NaN where a logit is not finite."""
    collection = MetricCollection(dict(metrics))
    if not bool(logits.isfinite().all()):
        return dict.fromkeys(["loss", *collection], math.nan)
    collection.update(logits[known], target[known])
    if task.kind == "classification":
        loss = nn.functional.cross_entropy(logits[known], target[known])
    else:
        loss = nn.functional.mse_loss(logits[known, 0], target[known])
    return {"loss": float(loss), **{name: float(value) for name, value in collection.compute().items()}}
