"""Differences of groups on the same utterances, and whether they are real."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from emorec.errors import UserError, raise_problems
from emorec.reporting.aggregate import Group
from emorec.reporting.evidence import Resampled
from emorec.reporting.scores import SCORES
from emorec.reporting.statistics import Interval, SignedRank, cohens_dz, holm, wilcoxon
from emorec.reporting.tables import SPLITS, Row, Table

BEST = ("all", "best")  # as `compare`: the best group by validation against all others, in each contest


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A group's score less that of the baseline.

    Attributes:
        metric: "test/uar".
        value: the difference of their means.
        interval: 95 %, by the paired bootstrap over the clusters of `clusters`; `None` without predictions.
        p: of no difference, by the same bootstrap.
        corrected: p by Holm's correction over all groups that are compared with the baseline by this metric.
        signed_rank: Wilcoxon's test over runs of the same fold and seed; `None` where there are none.
        effect: Cohen's d_z over the same runs; `None` for fewer than two.
        clusters: "24 speakers".
    """

    row: Row
    metric: str
    value: float
    interval: Interval | None = None
    p: float | None = None
    corrected: float | None = None
    signed_rank: SignedRank | None = None
    effect: float | None = None
    clusters: str = ""


@dataclass(frozen=True)
class Comparison:
    """The differences of some groups of a table from a baseline among them."""

    table: Table
    baseline: Row
    differences: tuple[Difference, ...]


def compare(tables: Sequence[Table], asked: Sequence[str]) -> list[Comparison]:
    """Compares groups.

    Args:
        tables: of the report.
        asked: ids of groups of one contest, or first digits of them, the baseline first; a baseline alone is compared
            with all others of its contest. Or one of `BEST`; or nothing.

    Raises:
        UserError: there are no such groups, or they are not of one contest; the message names all of them.
    """
    if not asked:
        return []
    if len(asked) == 1 and asked[0] in BEST:
        chosen = [(table, table.rows) for table in tables if len(table.rows) > 1 and table.rows[0].place == 1]
        if not chosen:
            raise UserError(
                f"compare={asked[0]}: expected a contest with two groups or more, ranked by validation, got none"
            )
        return [_compared(table, rows[0], rows[1:]) for table, rows in chosen]
    table, rows = _found(tables, asked)
    others = rows[1:] or [row for row in table.rows if row is not rows[0]]
    if not others:
        raise UserError(f"compare={asked[0]}: expected another group in its contest, {table.heading}, got none")
    return [_compared(table, rows[0], others)]


def _found(tables: Sequence[Table], asked: Sequence[str]) -> tuple[Table, list[Row]]:
    """The groups that are asked for, and the table that they are in."""
    found: list[tuple[Table, Row]] = []
    problems = []
    everyone = [(table, row) for table in tables for row in table.rows]
    for prefix in asked:
        matching = [item for item in everyone if prefix and item[1].group.group_id.startswith(prefix)]
        if len(matching) != 1:
            names = [row.group.group_id for _, row in (matching or everyone)]
            problems.append(f"expected one group that starts with {prefix!r}, got {len(matching)} of {names}")
        elif any(row is matching[0][1] for _, row in found):
            problems.append(f"expected each group once, got {prefix} again")
        else:
            found += matching
    contests = {id(table): table for table, _ in found}
    if len(contests) > 1:
        which = [f"{row.group.group_id} of {table.heading}" for table, row in found]
        problems.append(f"expected groups of one contest, got {', '.join(which)}")
    raise_problems("compare", problems)
    return found[0][0], [row for _, row in found]


def _compared(table: Table, baseline: Row, others: Sequence[Row]) -> Comparison:
    name = table.ranked_by.partition("/")[2]
    if name not in SCORES.get(table.contest.kind, ()):  # a loss has no resamples
        name = table.contest.monitor
    differences: list[Difference] = []
    for split in reversed(SPLITS):
        theirs = _resampled(table, baseline, split, name)
        found = [_difference(table, baseline, row, f"{split}/{name}", theirs) for row in others]
        differences += _corrected([item for item in found if item is not None])
    return Comparison(table, baseline, tuple(differences))


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    """With Holm's correction over those that have a p."""
    values = iter(holm([item.p for item in differences if item.p is not None]))
    return [item if item.p is None else replace(item, corrected=next(values)) for item in differences]


def _resampled(table: Table, row: Row, split: str, name: str) -> Resampled | None:
    """A score of a group and its resamples; `None` where it has no predictions, or where too few clusters are known."""
    evidence = table.evidence.get(split)
    if evidence is None or not evidence.is_defined:
        return None
    return evidence.resampled(row.group.samples(split), [name]).get(name)


def _difference(table: Table, baseline: Row, row: Row, metric: str, theirs: Resampled | None) -> Difference | None:
    """A group less the baseline, whose resamples are `theirs`; `None` where one of the two lacks the metric."""
    first, second = baseline.group.score(metric), row.group.score(metric)
    if first is None or second is None:
        return None
    pairs = paired_differences(baseline.group, row.group, metric)
    difference = Difference(
        row=row,
        metric=metric,
        value=second[0] - first[0],
        signed_rank=wilcoxon(pairs) if pairs else None,
        effect=cohens_dz(pairs),
    )
    split, _, name = metric.partition("/")
    ours = None if theirs is None else _resampled(table, row, split, name)
    if ours is None or theirs is None:
        return difference
    evidence = table.evidence[split]
    value, interval, p = evidence.difference(ours, theirs)
    return replace(difference, value=value, interval=interval, p=p, clusters=evidence.clusters)


def paired_differences(baseline: Group, other: Group, metric: str) -> list[float]:
    """Of the runs of the same fold and seed, in order."""

    def values(group: Group) -> dict[tuple[int, int], float]:
        return {
            (-1 if run.record.fold is None else run.record.fold, run.record.seed): run.numbers[metric]
            for run in group.runs
        }

    first, second = values(baseline), values(other)
    return [second[key] - first[key] for key in sorted(first.keys() & second.keys())]
