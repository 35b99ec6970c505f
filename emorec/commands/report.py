"""`emorec report`: compares finished runs."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from emorec.commands.report_gap import gap
from emorec.config.command_line import quoted
from emorec.config.composition import compose_once
from emorec.config.schema import BenchmarkConfig, ReportConfig
from emorec.errors import UserError
from emorec.runs.logs import start_logging

if TYPE_CHECKING:
    from emorec.reporting.aggregate import Run
    from emorec.reporting.exploration import Exploration

OWN_KEYS = tuple(item.name for item in fields(ReportConfig))


def main(arguments: Sequence[str]) -> int:
    """Prints the table of all runs that match the filters, and writes tables and figures; `gap` trains instead."""
    if arguments[:1] == ["gap"]:
        return gap(arguments[1:])
    own, filters = [], {}
    for word in arguments:
        key, separator, value = word.partition("=")
        if word.startswith("-") or not separator or key.split(".")[0] in OWN_KEYS:
            own.append(word)
        else:
            filters[key] = value.strip("[]").split(",")
    composed = compose_once("report", ReportConfig, [_with_texts(word) for word in own])
    if composed is None:
        return 0
    start_logging()
    config = composed.config
    from emorec.reporting.aggregate import check_rank, finished_runs, grouped, matching, with_predictions
    from emorec.reporting.benchmarks import benchmark_tables
    from emorec.reporting.comparison import compare
    from emorec.reporting.report import are_drawn, write_report
    from emorec.reporting.tables import make_tables
    from emorec.runs.checkpoint_store import CheckpointStore
    from emorec.storage.folders import check_real_folder

    check_rank(config.rank)
    if config.output.parent == config.paths.checkpoints:  # a folder elsewhere is the user's own choice
        check_real_folder(config.output)
    jobs = {} if config.benchmark is None else _jobs_of(config, config.benchmark)
    if jobs:
        filters["run"] = [*jobs]
    folders = [Path(value).expanduser() for value in filters.pop("folder", ())]
    store = CheckpointStore(config.paths.checkpoints)
    runs = with_predictions(matching(finished_runs(store, folders), filters), store)
    if not runs:
        raise UserError(_nothing(config, folders, filters))
    tables = make_tables(
        grouped(runs, rank=config.rank),
        rank=config.rank,
        unit=config.cluster,
        draws=config.resamples,
        ensembles=config.ensemble,
    )
    report = write_report(
        config.output,
        tables,
        compare(tables, config.compared),
        [] if config.benchmark is None else benchmark_tables(config.benchmark, tables, jobs),
        figures=config.figures,
        explore=partial(_explore, config),
        projection=config.projection,
    )
    print(report)
    drawn = are_drawn(tables, config.figures)
    print(f"report: {config.output / 'report.md'}\npage: {config.output / 'report.html'}")
    print(f"figures: {config.output / 'figures' if drawn else 'none; figures=all draws them'}")
    return 0


def _explore(config: ReportConfig, run: "Run") -> "Exploration | None":
    """The corpus and the vectors of a run; the model is imported for it."""
    from emorec.inference.exploring import explore

    return explore(run, config)


def _jobs_of(config: ReportConfig, benchmark: BenchmarkConfig) -> dict[str, list[str]]:
    """{id of a run: the overrides of its job} of a benchmark's sweep.

    Raises:
        UserError: it has not been run.
    """
    from emorec.sweeps.record import read_sweep

    folder = config.paths.checkpoints / "sweeps" / benchmark.sweep
    if not folder.is_dir():
        hint = f"emorec train -m experiment={benchmark.sweep}"
        raise UserError(f"benchmark: expected a sweep in {folder}, found none ({hint})")
    jobs = {job.run_id: job.overrides for job in read_sweep(folder).all_jobs if job.run_id and job.status == "finished"}
    if not jobs:
        raise UserError(f"benchmark: expected finished runs in sweep {benchmark.sweep}, found none ({folder})")
    return jobs


def _with_texts(word: str) -> str:
    """`compare=401b,77` as the list of texts that it is meant to be; Hydra would read a sweep and a number."""
    key, _, value = word.partition("=")
    if key != "compare" or value in ("null", ""):
        return word
    return f"{key}=[{','.join(quoted(item.strip()) for item in value.strip('[]').split(','))}]"


def _nothing(config: ReportConfig, folders: Sequence[Path], filters: Mapping[str, Sequence[str]]) -> str:
    where = ", ".join(map(str, folders)) or str(config.paths.checkpoints)
    asked = " ".join(f"{key}={','.join(values)}" for key, values in filters.items())
    hint = "; output=… says where the report is written" if folders else ""
    return f"expected finished runs in {where}{f' with {asked}' if asked else ''}, found none{hint}"
