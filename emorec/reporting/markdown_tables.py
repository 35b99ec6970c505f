"""The tables of a report as Markdown, which reads well on a terminal too."""

from collections.abc import Sequence
from statistics import fmean

from emorec.escaping import for_markdown
from emorec.markdown import markdown_table, with_deviation
from emorec.reporting.aggregate import FUSED_NORMALISATION, NORMALISATION
from emorec.reporting.calibration import BINS, CALIBRATION
from emorec.reporting.comparison import Comparison, Difference
from emorec.reporting.contests import numbers_text
from emorec.reporting.statistics import SIGNIFICANT, Interval, SignedRank
from emorec.reporting.tables import Estimate, Row, Table
from emorec.runs.results import SPEAKER_NOTE

BEST = "**best**"
NONE = "–"
TOO_NARROW = "; too narrow, as far as utterances of one speaker or dialogue are alike"
SPEAKERS = (
    f"`{NORMALISATION}=speaker`, `{FUSED_NORMALISATION}=speaker`: {SPEAKER_NOTE}, by each speaker's own unlabelled "
    "utterances, those of test included."
)


def interval_text(interval: Interval | None) -> str:
    """`[0.612, 0.688]`."""
    return "" if interval is None else f"[{interval.low:.3f}, {interval.high:.3f}]"


def estimate_text(estimate: Estimate | None) -> str:
    """`0.650 ± 0.021 [0.612, 0.688]`."""
    if estimate is None:
        return NONE
    return f"{with_deviation(estimate.mean, estimate.deviation)} {interval_text(estimate.interval)}".strip()


def p_text(p: float | None) -> str:
    """`0.031`, `2e-05`."""
    return NONE if p is None else f"{p:.0e}" if p < 0.001 else f"{p:.3f}"


def signed_rank_text(test: SignedRank | None) -> str:
    """`0.031 (6 pairs)`; where so few pairs cannot be significant, this."""
    if test is None:
        return NONE
    pairs = f"{test.pairs} pair{'s' if test.pairs > 1 else ''}"
    if not test.can_be_significant:
        return f"{pairs} cannot reach p below {SIGNIFICANT:g}"
    return f"{p_text(test.p)} ({pairs})"


def group_table(table: Table) -> str:
    """The groups of one contest; the first, which is best on validation, is marked."""
    rows = []
    for row in table.rows:
        group = row.group
        cells = [
            group.group_id,
            *row.values,
            str(len(group.runs)),
            numbers_text(group.seeds),
            numbers_text(group.folds),
        ]
        cells += [group.over or NONE, *(estimate_text(row.estimates.get(metric)) for metric in table.metrics)]
        rows.append([*cells, BEST if row is table.rows[0] and row.place == 1 else ""])
    headers = ["group", *table.keys, "n", "seeds", "folds", "± over", *table.metrics, "by validation"]
    return "\n\n".join([markdown_table(headers, rows), *_notes(table)])


def _notes(table: Table) -> list[str]:
    """What a reader of the table must know."""
    notes = []
    if table.clusters:
        notes.append(
            f"In brackets: 95 % interval of the mean over {table.clusters} of test, which are resampled "
            f"{table.evidence['test'].draws:,} times{TOO_NARROW if table.evidence['test'].unit == 'utterance' else ''}."
        )
    notes.append(protocols_text(table))
    if any(row.group.runs[0].normalises_speakers for row in table.rows):
        notes.append(SPEAKERS)
    return notes


def protocols_text(table: Table) -> str:
    """How the numbers of the groups are cited."""
    name = table.ranked_by.partition("/")[2]
    protocols: dict[str, list[str]] = {}
    for row in table.rows:
        protocols.setdefault(row.protocol(name), []).append(row.group.group_id)
    if len(protocols) == 1:
        return f"Protocol: `{next(iter(protocols))}`."
    texts = [f"`{protocol}` ({', '.join(names)})" for protocol, names in protocols.items()]
    return f"Protocols: {'; '.join(texts)}."


def _section(table: Table, title: str, headers: Sequence[str], rows: Sequence[tuple[Row, Sequence[str]]]) -> str:
    """A heading and a further table of some groups; empty without rows."""
    if not rows:
        return ""
    cells = [[row.group.group_id, *row.values, str(len(row.group.runs)), *own] for row, own in rows]
    return f"### {title}\n\n{markdown_table(['group', *table.keys, 'n', *headers], cells)}\n"


def missing_table(table: Table) -> str:
    """What is left of the monitor on test without some modalities, for groups that know it."""
    known = [row for row in table.rows if row.missing]
    names = list(dict.fromkeys(name for row in known for name in row.missing))
    rows = [
        (
            row,
            [
                *(f"{row.missing[name]:.3f}" if name in row.missing else NONE for name in names),
                f"{fmean(row.missing.values()):.3f}",
            ],
        )
        for row in known
    ]
    return _section(table, f"test/{table.contest.monitor} with some modalities alone", [*names, "mean"], rows)


def calibration_table(table: Table) -> str:
    """How well probabilities on test agree with what happens."""
    metrics = [f"test/{name}" for name in CALIBRATION]
    rows = [
        (row, [estimate_text(row.estimates.get(metric)) for metric in metrics])
        for row in table.rows
        if any(metric in row.estimates for metric in metrics)
    ]
    text = _section(table, "Probabilities on test", metrics, rows)
    return text and f"{text}\nece: {BINS} bins of equal mass. Lower is better.\n"


def ensemble_table(table: Table) -> str:
    """The groups as ensembles."""
    metrics = [*table.metrics[1:], *(f"test/{name}" for name in CALIBRATION)]
    rows = [
        (row, [row.ensemble_of, *(estimate_text(row.ensemble.get(metric)) for metric in metrics)])
        for row in table.rows
        if row.ensemble
    ]
    return _section(table, "Ensembles: the mean of the probabilities", ["of", *metrics], rows)


def tables_of(tables: Sequence[Table], *, calibration: bool = False) -> str:
    """A heading and the tables of each contest, with how well probabilities agree with what happens or without."""
    parts = []
    for table in tables:
        parts.append(f"## {for_markdown(table.heading)}\n\n{group_table(table)}\n")
        further = [missing_table(table), calibration_table(table) if calibration else "", ensemble_table(table)]
        parts += [text for text in further if text]
    return "\n".join(parts)


def comparison_table(comparison: Comparison) -> str:
    """A heading and a table of differences."""
    table, baseline = comparison.table, comparison.baseline
    names = " ".join(baseline.values) or "the baseline"
    title = f"## {table.heading}: less {baseline.group.group_id} ({names})"
    headers = ["group", *table.keys, "metric", "difference", "p", "p (Holm)", "Wilcoxon p", "d_z"]
    rows = [
        [
            item.row.group.group_id,
            *item.row.values,
            item.metric,
            f"{item.value:+.3f} {_signed(item.interval)}".strip(),
            p_text(item.p),
            p_text(item.corrected),
            signed_rank_text(item.signed_rank),
            NONE if item.effect is None else f"{item.effect:+.2f}",
        ]
        for item in comparison.differences
    ]
    note = _comparison_note(comparison.differences)
    return f"{for_markdown(title)}\n\n{markdown_table(headers, rows)}\n\n{note}\n"


def _signed(interval: Interval | None) -> str:
    return "" if interval is None else f"[{interval.low:+.3f}, {interval.high:+.3f}]"


def _comparison_note(differences: Sequence[Difference]) -> str:
    clusters = {item.metric.partition("/")[0]: item.clusters for item in differences if item.clusters}
    over = ", ".join(f"{text} of {split}" for split, text in clusters.items())
    tests = [
        f"Interval (95 %) and p: paired bootstrap over {over}, the same draws for both groups." if over else "",
        "Holm: over all groups that are compared by the same metric.",
        "Wilcoxon and d_z (Cohen): over runs of the same fold and seed.",
        "Epochs and groups were chosen on validation, so its differences are no evidence.",
    ]
    return " ".join(text for text in tests if text)
