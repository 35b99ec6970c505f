"""The robustness card: what is left of a run's scores under worse conditions.

Media are changed once they are decoded and resampled, and then conditioned and encoded as `emorec predict` does,
without the cache.
"""

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emorec.cards.card import (
    COLOURS,
    Card,
    bounds_of,
    clusters_of,
    draws_of,
    heading,
    is_lower_better,
    monitor_of,
    numbers_of,
    png_of,
)
from emorec.cards.clips import Clips, chosen_clips
from emorec.cards.conditions import MISSING, Condition, conditions_of
from emorec.config.cards import CardConfig
from emorec.datasets.utterance import Task, Utterance
from emorec.encoders.precomputed import Precomputed
from emorec.errors import UserError
from emorec.escaping import for_figure
from emorec.inference.loaded_run import LoadedRun
from emorec.inference.member import Member
from emorec.markdown import markdown_table
from emorec.media.source import Change
from emorec.progress import Progress
from emorec.reporting.samples import cluster_sums
from emorec.reporting.scores import SCORES
from emorec.reporting.statistics import Interval
from emorec.runs.logs import quiet
from emorec.runs.results import SHOWN
from emorec.runs.stored_predictions import StoredPredictions
from emorec.training.missing import subsets

if TYPE_CHECKING:
    from emorec.training.evaluation import Evaluation

CLEAN = "unchanged"
COLOUR_OF_MISSING = "#555555"
NOTE = """\
The row `unchanged` is of the same clips, encoded in the same way. Changes are relative to it, with 95 % intervals over
{over}, which are the same in both. Noise is relative to the sound of the whole clip at the rate of the encoder. Babble
is five other voices of the corpus. Percentages of blur are of the picture's shorter side, of light of the values of its
pixels, of errors in text of the letters or words. Pictures are changed after a face is cut out. What is done to a clip
depends on `card.seed={seed}` and on the clip's id alone."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a run reaches under a condition."""

    condition: str  # its name
    modality: str  # that it changes, or "missing"
    utterances: int  # that the scores are of
    metrics: dict[str, float]  # {metric: value}
    change: float | None  # of the metric that is compared, relative to that of unchanged clips; `None` where that is 0
    interval: Interval | None  # of the change


def robustness_card(evaluation: "Evaluation", settings: CardConfig) -> Card:
    """Scores under each condition of the run's modalities, and without each of them.

    Raises:
        UserError: no modality of the run can be changed, or a condition is not known.
    """
    member = Member(LoadedRun(evaluation.record, evaluation.folder, evaluation.models), evaluation.config.extraction)
    fixed = [name for name, encoder in member.encoders.items() if isinstance(encoder.stored(), Precomputed)]
    media = [name for name in member.encoders if name not in fixed]
    if not media:
        raise UserError(
            "card=robustness: expected encoders that read media, got features that were computed elsewhere "
            f"({', '.join(fixed)}): what is done to media does not change them"
        )
    clips = chosen_clips(evaluation, member, settings)
    conditions = conditions_of(evaluation.data.manifest.utterances, media, settings.conditions)
    trial = _Trial(member, clips, settings.seed, progress=evaluation.config.extraction.progress)
    rows, over = trial.rows(conditions, settings.conditions)
    metric = monitor_of(member.task)
    table = _table(rows)
    of = f"{clips.scored} clips of {clips.total}" if clips.scored < clips.total else f"all {clips.total} clips"
    note = NOTE.format(over=over, seed=settings.seed)
    left_out = [f"Not changed, since its features were computed elsewhere: {', '.join(fixed)}."] if fixed else []
    parts = [heading(evaluation, "Robustness"), f"Of {of}.", table, note, *left_out, "![scores](robustness.png)"]
    return Card(
        markdown="\n\n".join(parts) + "\n",
        values={
            "metric": metric,
            "clips": clips.scored,
            "of": clips.total,
            "seed": settings.seed,
            "rows": [{**asdict(row), "interval": None if row.interval is None else list(row.interval)} for row in rows],
        },
        summary=f"robustness of {of}\n{table}",
        files={"robustness.png": png_of(_figure(rows, metric))},
    )


class _Trial:
    """A run on the same clips under several conditions.

    Args:
        member: the run.
        clips: that it predicts.
        seed: of what is done to them.
        progress: whether a bar is drawn.
    """

    def __init__(self, member: Member, clips: Clips, seed: int, *, progress: bool) -> None:
        self.member, self.clips, self.seed, self.progress = member, clips, seed, progress
        self.task, self.modalities = member.task, list(member.encoders)

    def rows(self, conditions: Sequence[Condition], names: Sequence[str] | None) -> tuple[list[Row], str]:
        """A row for each condition and each subset of the modalities, and what their intervals are over."""
        present = [name for name in self.modalities if any(_has(clip, name) for clip in self.clips.clips)]
        lacking = subsets(present)[1:] if names is None or MISSING in names else []
        with (
            tempfile.TemporaryDirectory(prefix="emorec_robustness_") as name,
            Progress("conditions", 1 + len(conditions) + len(lacking), self.progress) as progress,
        ):
            folder = Path(name)
            clean = self._predicted(folder, self.clips.clips)
            clusters, over = clusters_of(clean)
            compare = _Comparison(clean, clusters, self.task)
            rows = [compare.row(CLEAN, "", clean)]
            progress.advance()
            for condition in conditions:
                clips, changes = condition.applied(self.clips.clips, self.seed)
                rows.append(compare.row(condition.name, condition.modality, self._predicted(folder, clips, changes)))
                progress.advance()
            for kept in lacking:
                clips = [_only(clip, self.modalities, kept) for clip in self.clips.clips]
                predicted = self._predicted(folder, clips)
                rows.append(compare.row(f"only {' and '.join(kept)}", MISSING, _known(predicted)))
                progress.advance()
        return rows, over

    def _predicted(
        self, folder: Path, clips: Sequence[Utterance], changes: dict[str, dict[str, Change]] | None = None
    ) -> StoredPredictions:
        """What the run predicts of the clips that count; unusable ones are of no class."""
        # what cannot be read of unchanged clips is logged once
        with quiet(level=logging.WARNING if clips is self.clips.clips and not changes else logging.ERROR):
            values = self.member.outputs(clips, folder, changes).values.numpy()  # (N, C)
        rows = [row for row, clip in enumerate(self.clips.clips) if clip.id in self.clips.counted]
        chosen, values = [self.clips.clips[row] for row in rows], values[rows]
        is_known, task = np.isfinite(values).all(1), self.task
        of_classes = task.kind == "classification"
        return StoredPredictions(
            id=np.array([clip.id for clip in chosen], dtype=object),
            speaker=np.array([clip.speaker for clip in chosen], dtype=object),
            dialogue=np.array([clip.dialogue for clip in chosen], dtype=object),
            target=np.array([clip.targets[task.name] for clip in chosen], dtype=np.int64 if of_classes else np.float64),
            predicted=np.where(is_known, np.nan_to_num(values).argmax(1), -1) if of_classes else values[:, 0],
            probabilities=values if of_classes else values[:, :0],
        )


def _has(clip: Utterance, modality: str) -> bool:
    return getattr(clip, modality) is not None


def _only(clip: Utterance, modalities: Sequence[str], kept: Sequence[str]) -> Utterance:
    lacking: dict[str, Any] = dict.fromkeys((name for name in modalities if name not in kept), None)
    return replace(clip, **lacking)


def _known(predictions: StoredPredictions) -> StoredPredictions:
    """Those of clips of which anything is known."""
    known = predictions.predicted >= 0 if predictions.is_classification else np.isfinite(predictions.predicted)
    return predictions.taken(known)


class _Comparison:
    """Compares predictions with those of unchanged clips, by the same draws of clusters."""

    def __init__(self, clean: StoredPredictions, clusters: Any, task: Task) -> None:
        numbers, self._count = numbers_of(clusters)
        self._number = dict(zip(clean.id.tolist(), numbers.tolist(), strict=True))
        self._task, self._metric = task, monitor_of(task)
        self._score = SCORES[task.kind][self._metric]
        self._resampling = draws_of(numbers, self._count)
        sums = self._sums(clean)
        self._clean = float(self._score(sums.sum(0)))
        self._clean_drawn = self._score(self._resampling.resampled(sums))

    def _sums(self, predictions: StoredPredictions) -> Any:
        if not predictions.is_classification:
            predictions = _known(predictions)
        numbers = np.array([self._number[name] for name in predictions.id.tolist()], dtype=np.int64)
        return cluster_sums(predictions, numbers, self._count)

    def row(self, name: str, modality: str, predictions: StoredPredictions) -> Row:
        """The row of a condition."""
        sums = self._sums(predictions)
        metrics = dict.fromkeys([self._metric, *SHOWN[self._task.kind]], 0.0)
        for metric in metrics:
            metrics[metric] = float(SCORES[self._task.kind][metric](sums.sum(0)))
        change, interval = None, None
        if name != CLEAN and self._clean != 0:
            change = (metrics[self._metric] - self._clean) / abs(self._clean)
            if self._resampling.is_defined:
                difference = self._score(self._resampling.resampled(sums)) - self._clean_drawn
                least = -1.0 if bounds_of(self._metric)[0] == 0 else -math.inf  # all of it is lost
                interval = self._resampling.interval(change, difference / abs(self._clean), low=least)
        return Row(
            condition=name,
            modality=modality,
            utterances=len(predictions),
            metrics=metrics,
            change=change,
            interval=interval,
        )


def _table(rows: Sequence[Row]) -> str:
    names = list(rows[0].metrics)
    lines = [
        [
            row.modality,
            row.condition,
            str(row.utterances),
            *(f"{row.metrics[name]:.3f}" for name in names),
            "" if row.change is None else f"{100 * row.change:+.0f} %",
            "" if row.interval is None else f"[{100 * row.interval.low:+.0f}, {100 * row.interval.high:+.0f}]",
        ]
        for row in rows
    ]
    return markdown_table(["", "condition", "clips", *names, f"change in {names[0]}", "95 %"], lines)


def _figure(rows: Sequence[Row], metric: str) -> Any:
    """A dot for each condition, and a line for unchanged clips."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 0.8 + 0.21 * len(rows)), layout="constrained")
    axes = figure.subplots()
    clean = rows[0].metrics[metric]
    axes.axvline(clean, color="#888888", linewidth=1, linestyle="--")
    for number, row in enumerate(rows[1:]):
        colour, value = COLOURS.get(row.modality, COLOUR_OF_MISSING), row.metrics[metric]
        axes.plot([clean, value], [number, number], color=colour, linewidth=1, alpha=0.5)
        axes.plot(value, number, "o", color=colour, markersize=5)
    names = [for_figure(row.condition) for row in rows[1:]]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(*_limits([row.metrics[metric] for row in rows]))
    better = "lower is better" if is_lower_better(metric) else "higher is better"
    axes.set_xlabel(f"{metric} ({better}); dashed: unchanged, {clean:.3f}")
    for modality in dict.fromkeys(row.modality for row in rows[1:]):
        axes.plot([], [], "o", color=COLOURS.get(modality, COLOUR_OF_MISSING), label=modality)
    axes.legend(frameon=False, fontsize=8, loc="best")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """From 0, so that a small difference does not look large."""
    least, most = min(0.0, *values), max(values)
    return least * 1.05, most * 1.05 if most > 0 else 1.0
