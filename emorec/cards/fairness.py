"""The fairness card: for whom a run is right, and for whom it is not."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emorec.cards.card import (
    Card,
    clusters_of,
    draws_of,
    finite_predictions,
    heading,
    is_lower_better,
    monitor_of,
    numbers_of,
    png_of,
    score_of,
    split_utterances,
)
from emorec.cards.groups import columns_of
from emorec.config.cards import CardConfig
from emorec.datasets.utterance import Task
from emorec.escaping import for_figure, for_markdown
from emorec.markdown import markdown_table
from emorec.reporting.samples import cluster_sums
from emorec.reporting.scores import SCORES
from emorec.reporting.statistics import Interval, Resampling
from emorec.reporting.text_tables import interval_text
from emorec.runs.results import SHOWN
from emorec.runs.stored_predictions import StoredPredictions

if TYPE_CHECKING:
    from emorec.training.evaluation import Evaluation

LEAST = 30  # utterances behind a number that is compared with others
SHOWN_SMALL = 10  # groups below it that the table shows; the JSON has all
MOST_ROWS = 40  # groups of a column that the figure shows
NOTE = f"""\
Intervals are 95 %, over whole speakers (or dialogues) where a group has several, over utterances where it has one:
those of a single speaker say nothing of other speakers. Groups of fewer than {LEAST} utterances are marked `*`: they
are shown, and neither the worst nor part of a gap. The worst and the best group are chosen from the same utterances
that the gap is measured on, so with many groups some gap is to be expected of a fair model too."""


@dataclass(frozen=True, kw_only=True)
class GroupScore:
    """What a run reaches in one group."""

    name: str  # of the group
    utterances: int  # that have a target
    clusters: int  # speakers, dialogues or utterances that the interval is over
    over: str  # what these are
    metrics: dict[str, float]  # {metric: value}
    interval: Interval | None  # of the metric that is compared; `None` where there is a single utterance
    recalls: dict[str, tuple[float, int]]  # {class: (recall, utterances of the class)}; none for regression

    @property
    def is_large(self) -> bool:
        """Whether it is compared with others."""
        return self.utterances >= LEAST


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The distance of the worst group from the best, of those that are large enough."""

    worst: str
    best: str
    value: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The groups of a column."""

    column: str  # of the corpus
    groups: list[GroupScore]  # by name
    gap: Gap | None  # `None` with fewer than two large groups
    # {class: distance of the best recall from the worst} over the groups with enough of the class
    recall_gaps: dict[str, float]


def fairness_card(evaluation: "Evaluation", settings: CardConfig) -> Card:
    """Scores by group, with intervals, the worst group and the gap; and the recall of each class by group.

    Raises:
        UserError: a prediction is not finite, or the corpus has no such column.
    """
    task, predictions = evaluation.data.task, finite_predictions(evaluation, "fairness")
    utterances = {item.id: item for item in split_utterances(evaluation)}
    columns = columns_of([utterances[name] for name in predictions.id.tolist()], settings.by)
    comparisons = [compared(name, groups, predictions, task) for name, groups in columns.items()]
    metric = monitor_of(task)
    table = _summary(comparisons, metric)
    parts = [heading(evaluation, "Fairness"), table, NOTE, "![scores by group](fairness.png)"]
    parts += [part for item in comparisons for part in _details(item, task)]
    return Card(
        markdown="\n\n".join(parts) + "\n",
        values={"metric": metric, "least": LEAST, "columns": [_plain(item) for item in comparisons]},
        summary=f"fairness by {metric}\n{table}",
        files={"fairness.png": png_of(_figure(comparisons, metric))},
    )


def compared(column: str, groups: Sequence[str | None], predictions: StoredPredictions, task: Task) -> Comparison:
    """The groups (N,) of a column; utterances without one do not count."""
    names = np.array(groups, dtype=object)
    scores = {}
    for name in sorted({name for name in groups if name is not None}):
        part = predictions.taken((names == name) & predictions.is_known)
        if len(part):
            scores[name] = _group_score(name, part, task)
    large = [score for score in scores.values() if score.is_large]
    return Comparison(
        column=column,
        groups=list(scores.values()),
        gap=_gap(names, large, predictions, task) if len(large) > 1 else None,
        recall_gaps=_recall_gaps(large, task) if task.kind == "classification" else {},
    )


def _group_score(name: str, part: StoredPredictions, task: Task) -> GroupScore:
    clusters, over = clusters_of(part)
    numbers, count = numbers_of(clusters)
    sums = cluster_sums(part, numbers, count)  # (n, K)
    _, interval = score_of(task, monitor_of(task), sums, draws_of(numbers, count))
    recalls = {}
    if task.kind == "classification":
        hits, targets, _ = np.split(sums.sum(0), 3)
        recalls = {
            label: (float(hits[row] / targets[row]), int(targets[row]))
            for row, label in enumerate(task.labels)
            if targets[row]
        }
    return GroupScore(
        name=name,
        utterances=len(part),
        clusters=count,
        over=over,
        metrics={metric: float(SCORES[task.kind][metric](sums.sum(0))) for metric in _metrics(task)},
        interval=interval,
        recalls=recalls,
    )


def _metrics(task: Task) -> list[str]:
    return list(dict.fromkeys([monitor_of(task), *SHOWN[task.kind]]))


def _gap(names: NDArray[np.object_], large: Sequence[GroupScore], predictions: StoredPredictions, task: Task) -> Gap:
    """Between the worst and the best group; speakers who are in both are drawn for both."""
    metric = monitor_of(task)
    ordered = sorted(large, key=lambda item: item.metrics[metric], reverse=is_lower_better(metric))
    worst, best = ordered[0], ordered[-1]
    in_either = np.isin(names, [worst.name, best.name]) & predictions.is_known
    part, own = predictions.taken(in_either), names[in_either]
    drawn_by = {"speakers": part.speaker, "dialogues": part.dialogue, "utterances": part.id}
    numbers, count = numbers_of(drawn_by[worst.over] if worst.over == best.over else clusters_of(part)[0])
    sums = []
    for name in (worst.name, best.name):
        rows = np.flatnonzero(own == name)
        sums.append(cluster_sums(part.taken(rows), numbers[rows], count))  # (n, K)
    first, second = (item.sum(1) > 0 for item in sums)
    # clusters that are in one group only are drawn within their group
    strata = first.astype(np.int64) + 2 * second
    sizes = np.bincount(numbers, minlength=count).astype(np.float64)
    score, resampling = SCORES[task.kind][metric], Resampling(strata, sizes)
    sign = -1 if is_lower_better(metric) else 1
    value = sign * float(score(sums[1].sum(0)) - score(sums[0].sum(0)))
    interval = None
    if resampling.is_defined:
        drawn = [score(resampling.resampled(item)) for item in sums]
        interval = resampling.interval(value, sign * (drawn[1] - drawn[0]))
    return Gap(worst=worst.name, best=best.name, value=value, interval=interval)


def _recall_gaps(groups: Sequence[GroupScore], task: Task) -> dict[str, float]:
    """Of each class, over the groups with enough utterances of it: the difference in equal opportunity (Hardt et al.
    2016, "Equality of opportunity in supervised learning")."""
    gaps = {}
    for label in task.labels:
        recalls = [item.recalls[label][0] for item in groups if item.recalls.get(label, (0, 0))[1] >= LEAST]
        if len(recalls) > 1:
            gaps[label] = max(recalls) - min(recalls)
    return gaps


def _summary(comparisons: Sequence[Comparison], metric: str) -> str:
    """A row for each column."""
    rows = []
    for item in comparisons:
        large = sum(group.is_large for group in item.groups)
        of = f"{large} of {len(item.groups)}" if large < len(item.groups) else str(large)
        if item.gap is None:
            rows.append([item.column, of, "", "", f"fewer than two groups of {LEAST} utterances", ""])
            continue
        values = {
            group.name: f"{group.name} {group.metrics[metric]:.3f} (n={group.utterances})" for group in item.groups
        }
        gap = f"{item.gap.value:.3f} {interval_text(item.gap.interval)}"
        recall = max(item.recall_gaps.items(), key=lambda pair: pair[1], default=None)
        largest = "" if recall is None else f"{recall[0]} {recall[1]:.3f}"
        rows.append([item.column, of, values[item.gap.worst], values[item.gap.best], gap, largest])
    headers = ["column", "groups compared", "worst", "best", f"gap in {metric}", "largest gap in recall"]
    shown = len(headers) - (not any(row[-1] for row in rows))
    return markdown_table(headers[:shown], [row[:shown] for row in rows])


def _details(item: Comparison, task: Task) -> list[str]:
    """The tables of a column: scores and recalls by group."""
    metric, names = monitor_of(task), _metrics(task)
    small = sorted((group for group in item.groups if not group.is_large), key=lambda group: -group.utterances)
    shown = sorted(
        (group for group in item.groups if group.is_large), key=lambda group: (group.metrics[metric], group.name)
    )
    shown += small[:SHOWN_SMALL]
    marks = {group.name: "" if group.is_large else "*" for group in shown}
    headers = ["group", "utterances", "interval over", *names, f"95 % of {metric}"]
    rows = [
        [
            f"{group.name}{marks[group.name]}",
            str(group.utterances),
            f"{group.clusters} {group.over}",
            *(f"{group.metrics[name]:.3f}" for name in names),
            interval_text(group.interval),
        ]
        for group in shown
    ]
    parts = [f"## {for_markdown(item.column)}", markdown_table(headers, rows)]
    if len(small) > SHOWN_SMALL:
        parts.append(
            f"And {len(small) - SHOWN_SMALL} more groups of fewer than {LEAST} utterances, in `fairness.json`."
        )
    if task.kind == "classification":
        parts += _lacking(shown, task)
    if task.kind == "classification" and item.column != "speaker":
        labels = [label for label in task.labels if any(label in group.recalls for group in shown)]
        recalls = [
            [f"{group.name}{marks[group.name]}", *(_recall(group, label) for label in labels)] for group in shown
        ]
        gaps = [f"{item.recall_gaps[label]:.3f}" if label in item.recall_gaps else "" for label in labels]
        parts += [
            f"Recall of each class (`*`: fewer than {LEAST} utterances of it), and its gap between groups, the "
            "difference in equal opportunity:",
            markdown_table(["group", *labels], [*recalls, ["gap", *gaps]]),
        ]
    return parts


def _lacking(groups: Sequence[GroupScore], task: Task) -> list[str]:
    """A line on the groups that lack classes which others have: their scores are not of the same task."""
    present = {label for group in groups for label in group.recalls}
    lacking = {
        group.name: [label for label in task.labels if label in present - set(group.recalls)] for group in groups
    }
    names = [f"{for_markdown(name)} has no {', '.join(labels)}" for name, labels in lacking.items() if labels]
    return [f"Scores of these groups are over fewer classes: {'; '.join(names)}."] if names else []


def _recall(group: GroupScore, label: str) -> str:
    if label not in group.recalls:
        return ""
    recall, count = group.recalls[label]
    return f"{recall:.2f}{'' if count >= LEAST else '*'}"


def _plain(item: Comparison) -> dict[str, Any]:
    """A comparison as JSON."""

    def interval(value: Interval | None) -> list[float] | None:
        return None if value is None else list(value)

    groups = [
        {**asdict(group), "interval": interval(group.interval), "compared": group.is_large} for group in item.groups
    ]
    gap = None if item.gap is None else {**asdict(item.gap), "interval": interval(item.gap.interval)}
    return {"column": item.column, "groups": groups, "gap": gap, "recall_gaps": item.recall_gaps}


def _figure(comparisons: Sequence[Comparison], metric: str) -> Any:
    """A row of dots for each group, with intervals; grey where the group is small."""
    from matplotlib.figure import Figure

    shown = [(item.column, [group for group in item.groups if group.is_large][:MOST_ROWS]) for item in comparisons]
    shown = [
        (column, large or groups[:MOST_ROWS]) if len(groups) > MOST_ROWS else (column, groups)
        for (column, large), groups in zip(shown, (item.groups for item in comparisons), strict=True)
    ]
    counts = [max(1, len(groups)) for _, groups in shown]
    figure = Figure(figsize=(6.5, 0.9 * len(shown) + 0.24 * sum(counts)), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True, height_ratios=counts)[:, 0]
    for axes, (column, groups) in zip(panels, shown, strict=True):
        for row, group in enumerate(groups):
            colour, value = ("#0072B2" if group.is_large else "#aaaaaa"), group.metrics[metric]
            if group.interval is not None:
                axes.plot(group.interval, [row, row], color=colour, linewidth=1.5)
            axes.plot(value, row, "o", color=colour, markersize=5)
        names = [for_figure(f"{group.name} (n={group.utterances})") for group in groups]
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_title(for_figure(column), fontsize=9, loc="left")
        axes.grid(axis="x", alpha=0.3)
    panels[-1].set_xlabel(f"{metric}, 95 % interval; grey: fewer than {LEAST} utterances")
    return figure
