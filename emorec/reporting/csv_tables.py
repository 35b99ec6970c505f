"""The tables of a report as CSV, for machines."""

import csv
import io
from collections.abc import Sequence

from emorec.escaping import for_csv
from emorec.reporting.aggregate import NORMALISATION, SUMMARY_METRICS, distinction, distinctions
from emorec.reporting.calibration import CALIBRATION
from emorec.reporting.comparison import Comparison
from emorec.reporting.contests import Contest
from emorec.reporting.tables import SPLITS, Estimate, Row, Table

RUN_FIELDS = ("run_id", "group_id", "seed", "fold", "best_epoch", "epochs")
PARTS = ("mean", "std", "low", "high")  # of an estimate


def _csv(*rows: Sequence[object]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([for_csv(cell) for cell in row] for row in rows)
    return stream.getvalue()


def _all_metrics(tables: Sequence[Table], *, calibration: bool = True) -> list[str]:
    """{split}/{name} of all kinds of tasks, and what else ranks."""
    kinds = sorted({table.contest.kind for table in tables} & SUMMARY_METRICS.keys())
    names = [name for kind in kinds for name in SUMMARY_METRICS[kind]]
    names += list(CALIBRATION) if calibration and "classification" in kinds else []
    metrics = [f"{split}/{name}" for split in SPLITS for name in names]
    return list(dict.fromkeys([*metrics, *(table.ranked_by for table in tables)]))


def _cells(estimate: Estimate | None) -> list[object]:
    """Those of `PARTS`; what is not known is empty."""
    if estimate is None:
        return [""] * len(PARTS)
    known = [estimate.mean, estimate.deviation, *(estimate.interval or (None, None))]
    return ["" if value is None else value for value in known]


def groups_csv(tables: Sequence[Table]) -> str:
    """A table of groups: mean, standard deviation and interval of each metric on validation and test; with ensembles a
    row for each of them too."""
    rows = [(table, row) for table in tables for row in table.rows]
    metrics, keys = _all_metrics(tables), distinctions([row.group for _, row in rows])
    headers = ["group_id", *Contest._fields[:4], "protocol_string", *keys, "n", "seeds", "folds", "std_over"]
    headers += ["ensemble_of", "ranked_by", "place", "interval_over"]
    headers += [f"{metric}/{part}" for metric in metrics for part in PARTS]
    lines: list[list[object]] = []
    for table, row in rows:
        shown = [("", row.estimates)] + ([(row.ensemble_of, row.ensemble)] if row.ensemble else [])
        for ensemble_of, estimates in shown:
            line: list[object] = [row.group.group_id, *table.contest[:4], row.protocol(table.ranked_by)]
            line += [distinction(row.group, key) for key in keys]
            line += [len(row.group.runs), *(" ".join(map(str, part)) for part in (row.group.seeds, row.group.folds))]
            line += ["" if ensemble_of else row.group.over, ensemble_of, table.ranked_by]
            line += ["" if ensemble_of or row.place is None else row.place, table.clusters]
            lines.append([*line, *(cell for metric in metrics for cell in _cells(estimates.get(metric)))])
    return _csv(headers, *lines)


def runs_csv(tables: Sequence[Table]) -> str:
    """A table of runs."""
    metrics = _all_metrics(tables, calibration=False)
    rows = [
        [
            *(getattr(run.record, name) for name in RUN_FIELDS),
            run.config.get(NORMALISATION, ""),
            *(run.numbers.get(metric, "") for metric in metrics),
        ]
        for table in tables
        for row in table.rows
        for run in row.group.runs
    ]
    return _csv([*RUN_FIELDS, NORMALISATION, *metrics], *rows)


def comparisons_csv(comparisons: Sequence[Comparison]) -> str:
    """A table of differences."""
    headers = ["baseline", "group_id", "metric", "protocol_string", "difference", "low", "high", "interval_over"]
    headers += ["p", "p_holm", "wilcoxon_p", "wilcoxon_pairs", "wilcoxon_smallest_p", "cohens_dz"]
    rows = []
    for comparison in comparisons:
        for item in comparison.differences:
            row: Row = item.row
            test = item.signed_rank
            cells = [comparison.baseline.group.group_id, row.group.group_id, item.metric, row.protocol(item.metric)]
            numbers = [item.value, *(item.interval or (None, None)), item.clusters, item.p, item.corrected]
            numbers += [None] * 3 if test is None else [test.p, test.pairs, test.smallest]
            rows.append([*cells, *("" if value is None else value for value in (*numbers, item.effect))])
    return _csv(headers, *rows)
