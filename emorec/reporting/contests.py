"""What groups of runs have in common that are comparable."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from emorec.storage.digests import digest_of

if TYPE_CHECKING:
    from emorec.reporting.aggregate import Run

SHOWN_DIGITS = 8  # of the digest of a corpus


class FoldSplits(NamedTuple):
    """What tells the splits of a fold apart: digests of the names of utterances, "" where they are unknown."""

    fold: int  # -1 for a protocol without folds
    val: str
    test: str


class Contest(NamedTuple):
    """What groups have in common that are comparable: the content of the corpus, the task, the protocol and the very
    utterances of validation and test."""

    dataset: str  # the corpus, with the name of its table if it has one
    task: str
    protocol: str
    corpus: str  # digest of its content; empty for runs of version 0.1, which do not record it
    kind: str
    labels: tuple[str, ...]
    monitor: str
    direction: str
    splits: tuple[FoldSplits, ...] = ()  # of all folds, in order; empty where neither folds nor utterances are known

    @property
    def folds(self) -> tuple[int, ...]:
        return tuple(item.fold for item in self.splits if item.fold >= 0)

    @classmethod
    def of(cls, run: "Run") -> "Contest":
        """The contest that a run belongs to."""
        data, task, table = run.record.data, run.record.task, run.config.get("dataset.table")
        dataset, labels = str(data.get("dataset", "")), task.get("labels")
        return cls(
            dataset=f"{dataset} ({Path(str(table)).name})" if table else dataset,
            task=str(task.get("name", "")),
            protocol=str(data.get("protocol", "")),
            corpus=str(data.get("corpus", "")),
            kind=str(task.get("kind", "classification")),
            labels=tuple(map(str, labels)) if isinstance(labels, list) else (),
            monitor=str(task.get("monitor", "")),
            direction=str(task.get("direction", "")),
        )


def numbers_text(values: Sequence[int]) -> str:
    """`0–3` for consecutive numbers, else `0, 2, 5`."""
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}–{values[-1]}"
    return ", ".join(map(str, values)) or "–"


def headings(contests: Iterable[Contest]) -> dict[Contest, str]:
    """A heading for each contest: the corpus, the task and the protocol, and what else tells two of them apart."""
    texts: dict[Contest, str] = {}
    contests = list(dict.fromkeys(contests))
    for contest in contests:
        alike = [other for other in contests if other[:3] == contest[:3]]
        text = f"{contest.dataset}: {contest.task}, {contest.protocol}"
        if len({other.corpus for other in alike}) > 1:
            text += f", corpus {contest.corpus[:SHOWN_DIGITS] or 'of unknown content'}"
        if len({other.labels for other in alike}) > 1:
            text += f", {', '.join(contest.labels)}"
        if len({(other.monitor, other.direction) for other in alike}) > 1:
            text += f", by {contest.monitor} ({contest.direction})"
        if len({other.folds for other in alike}) > 1:
            text += f", fold{'s' if len(contest.folds) != 1 else ''} {numbers_text(contest.folds)}"
        if len({other.splits for other in alike if other.folds == contest.folds}) > 1:
            text += f", utterances {digest_of(contest.splits)[:SHOWN_DIGITS]}"
        texts[contest] = text
    return texts
