"""`emorec runs ls|sweeps|show|verify|gc|rm|export|sync`: manages the runs."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from emorec.commands.arguments import Parser, add_action, duration, emit, parse, summary
from emorec.runs.logs import start_logging

if TYPE_CHECKING:
    from emorec.runs.checkpoint_store import CheckpointStore


def main(words: Sequence[str]) -> int:
    """Runs a subcommand; `verify` returns 1 where something is broken, `sync` where an upload failed."""
    parser = Parser(prog="emorec runs", description="Manages the runs.")
    actions = parser.add_subparsers(dest="action", required=True, parser_class=Parser)
    action = {name: add_action(actions, name, text) for name, (_, text) in ACTIONS.items()}
    action["ls"].add_argument("--sweep", metavar="NAME", help="the jobs of one multirun, with their runs")
    action["gc"].add_argument("--grace", type=duration, default=86400.0, help="untouched for so long, 1d by default")
    for name in ("gc", "rm"):
        action[name].add_argument("--yes", action="store_true", dest="act", help="remove them")
    for name in ("show", "rm", "export"):
        action[name].add_argument("run", help="the run's id, or the first digits of it")
    action["export"].add_argument("folder", help="a new folder")
    action["sync"].add_argument("runs", nargs="*", metavar="run", help="ids of runs, or the first digits of them")
    action["sync"].add_argument("--all", action="store_true", help="all runs")
    action["sync"].add_argument("--dry-run", action="store_false", dest="act", help="only list uploads")
    action["sync"].add_argument("--timeout", type=duration, default=600.0, help="for each upload, 10m by default")
    arguments, paths = parse(parser, words)
    start_logging()
    from emorec.runs.checkpoint_store import CheckpointStore

    return ACTIONS[arguments.action][0](arguments, CheckpointStore(paths.checkpoints))


def _list(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.reporting.run_listing import runs_table
    from emorec.sweeps.display import sweep_page, sweeps_table
    from emorec.sweeps.record import all_sweeps, find_sweep

    if arguments.action == "sweeps":
        sweeps = list(all_sweeps(store.root / "sweeps"))
        return emit(arguments, [sweep.as_json() for sweep in sweeps], lambda: sweeps_table(sweeps))
    if arguments.sweep is not None:
        sweep = find_sweep(store.root / "sweeps", arguments.sweep)
        return emit(arguments, sweep.as_json(), lambda: sweep_page(sweep))
    records = list(store.records())
    return emit(arguments, [asdict(record) for record in records], lambda: runs_table(store, records))


def _show(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.reporting.run_listing import run_page
    from emorec.runs.results import read_metrics

    record = store.find(arguments.run)
    folder = store.folder(record.run_id)
    metrics = read_metrics(folder)
    value = {"run": asdict(record), "metrics": metrics, "folder": str(folder)}
    return emit(arguments, value, lambda: run_page(record, metrics, folder))


def _verify(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.runs.maintenance import verify

    broken = verify(store)
    last = f"{sum(1 for _ in store.records())} runs checked, {len(broken)} files broken"
    lines = [*(f"{name}: {reason}" for name, reason in broken.items()), last]
    return emit(arguments, broken, lambda: "\n".join(lines), code=1 if broken else 0)


def _remove(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.runs.maintenance import collect_weights, remove_run

    if arguments.action == "gc":
        result = collect_weights(store, grace=arguments.grace, act=arguments.act)
        last = summary(len(result.removed), "weight files", result.bytes, acted=arguments.act)
        lines = [*(f"  {name}" for name in result.removed), last]
        return emit(arguments, {**asdict(result), "acted": arguments.act}, lambda: "\n".join(lines))
    record = store.find(arguments.run)
    names = remove_run(store, record, act=arguments.act)
    verb, hint = ("removed", "") if arguments.act else ("would remove", "; --yes removes them")
    text = f"{verb} run {record.run_id}: {len(names)} files; `emorec runs gc` removes its weights{hint}"
    return emit(arguments, {"run_id": record.run_id, "files": names, "acted": arguments.act}, lambda: text)


def _export(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.runs.maintenance import export_run

    record, target = store.find(arguments.run), Path(arguments.folder).expanduser().absolute()
    export_run(store, record, target)
    return emit(arguments, {"run_id": record.run_id, "folder": str(target)}, lambda: f"exported to {target}")


def _sync(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.loggers.sync import uploads

    results = []
    for upload in uploads(store, arguments.runs, all_runs=arguments.all, act=arguments.act, timeout=arguments.timeout):
        results.append(asdict(upload))
        if not arguments.json:
            print(upload)
    if arguments.json or not results:
        emit(arguments, results, lambda: "nothing waits to be uploaded")
    return 1 if any(result["status"] == "failed" for result in results) else 0


ACTIONS: dict[str, tuple[Callable[[Namespace, "CheckpointStore"], int], str]] = {
    "ls": (_list, "lists the runs"),
    "sweeps": (_list, "lists the multiruns"),
    "show": (_show, "shows a run: its record, its metrics, its scores by class"),
    "verify": (_verify, "hashes all weights again and follows all links"),
    "gc": (_remove, "removes weights that no run links to; a dry run without --yes"),
    "rm": (_remove, "removes a run; a dry run without --yes"),
    "export": (_export, "copies a run to a new folder, with real files in place of links"),
    "sync": (_sync, "uploads runs that W&B has kept offline"),
}
