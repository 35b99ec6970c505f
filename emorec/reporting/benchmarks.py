"""A benchmark: the runs of a sweep by what its jobs change, beside the published figures of others."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from emorec.config.keys import GROUPED_KEYS
from emorec.config.schema import BenchmarkConfig, PublishedFigure
from emorec.markdown import with_deviation
from emorec.reporting.tables import Table
from emorec.reporting.text_tables import NONE, TextTable, estimate_text

UNNAMED = ("sweep.name", *(".".join(path) for path in GROUPED_KEYS))  # keys that name no method
OWN = "this report"
NOTE = "A method is what its runs change; they stand in the order of validation."
PUBLISHED_NOTE = "A published figure is of other splits, models and choices, which its protocol names."


def benchmark_tables(
    config: BenchmarkConfig, tables: Sequence[Table], jobs: Mapping[str, Sequence[str]]
) -> list[TextTable]:
    """A table for each contest: its groups by validation, then published figures of its metrics.

    Args:
        config: the benchmark.
        tables: of its runs.
        jobs: {id of a run: the overrides of its job}.
    """
    methods = methods_of(jobs)
    return [_table(config.published, table, methods) for table in tables]


def methods_of(jobs: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """{id of a run: what its job changes}, less seed, fold and folders, and less what all jobs have in common where
    each has something of its own."""
    own = {run: [word for word in words if _names_a_method(word)] for run, words in jobs.items()}
    common = set.intersection(*map(set, own.values()))
    short = {run: [word for word in words if word not in common] for run, words in own.items()}
    return {run: " ".join(words) for run, words in (short if all(short.values()) else own).items()}


def _names_a_method(override: str) -> bool:
    key, _, value = override.lstrip("+").partition("=")
    return key not in UNNAMED and not Path(value).is_absolute()


def _table(published: Iterable[PublishedFigure], table: Table, methods: Mapping[str, str]) -> TextTable:
    metric = table.ranked_by.partition("/")[2]
    others = [item for item in published if item.metric == metric]
    rows = [
        [methods[row.group.runs[0].record.run_id], str(len(row.group.runs)), row.group.over or NONE]
        + [estimate_text(row.estimates.get(key)) for key in (table.ranked_by, f"test/{metric}")]
        + [row.protocol(metric), OWN]
        for row in table.rows
    ]
    rows += [
        [item.method, *[NONE] * 3, with_deviation(item.value, item.deviation), item.protocol, item.source]
        for item in others
    ]
    headers = ["method", "n", "± over", table.ranked_by, f"test/{metric}", "protocol", "source"]
    return TextTable(f"Benchmark of {table.heading}", headers, rows, [NOTE, PUBLISHED_NOTE] if others else [NOTE])
