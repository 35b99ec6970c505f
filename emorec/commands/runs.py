"""`emorec runs ls|sweeps|show|verify|gc|rm|export|sync`: manages the runs."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from emorec.commands.arguments import Parser, add_action, duration, emit, parse, summary
from emorec.loggers.sync import add_sync, sync
from emorec.runs.logs import start_logging

if TYPE_CHECKING:
    from emorec.runs.checkpoint_store import CheckpointStore


def main(words: Sequence[str]) -> int:
    """Runs a subcommand; `verify` returns 1 where something is broken."""
    parser = Parser(prog="emorec runs", description="Manages the runs.")
    actions = parser.add_subparsers(dest="action", required=True, parser_class=Parser)
    listed = add_action(actions, "ls", "lists the runs")
    listed.add_argument("--sweep", metavar="NAME", help="the jobs of one multirun, with their runs")
    add_action(actions, "sweeps", "lists the multiruns")
    show = add_action(actions, "show", "shows a run: its record, its metrics, its scores by class")
    add_action(actions, "verify", "hashes all weights again and follows all links")
    collect = add_action(actions, "gc", "removes weights that no run links to; a dry run without --yes")
    collect.add_argument("--grace", type=duration, default=86400.0, help="untouched for so long, 1d by default")
    remove = add_action(actions, "rm", "removes a run; a dry run without --yes")
    for action in (collect, remove):
        action.add_argument("--yes", action="store_true", help="remove them")
    export = add_action(actions, "export", "copies a run to a new folder, with real files in place of links")
    for action in (show, remove, export):
        action.add_argument("run", help="the run's id, or the first digits of it")
    export.add_argument("folder", help="a new folder")
    add_sync(actions)
    arguments, paths = parse(parser, words)
    start_logging()
    from emorec.runs.checkpoint_store import CheckpointStore

    run: dict[str, Callable[[Namespace, CheckpointStore], int]] = {
        "ls": _list,
        "sweeps": _list_sweeps,
        "show": _show,
        "verify": _verify,
        "gc": _collect,
        "rm": _remove,
        "export": _export,
        "sync": sync,
    }
    return run[arguments.action](arguments, CheckpointStore(paths.checkpoints))


def _list(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.reporting.run_listing import runs_table
    from emorec.sweeps.display import sweep_page
    from emorec.sweeps.record import find_sweep

    if arguments.sweep is None:
        records = list(store.records())
        return emit(arguments, [asdict(record) for record in records], lambda: runs_table(store, records))
    sweep = find_sweep(store.root / "sweeps", arguments.sweep)
    return emit(arguments, sweep.as_json(), lambda: sweep_page(sweep))


def _list_sweeps(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.sweeps.display import sweeps_table
    from emorec.sweeps.record import all_sweeps

    sweeps = list(all_sweeps(store.root / "sweeps"))
    return emit(arguments, [sweep.as_json() for sweep in sweeps], lambda: sweeps_table(sweeps))


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
    lines = [f"{name}: {reason}" for name, reason in broken.items()]
    lines.append(f"{sum(1 for _ in store.records())} runs checked, {len(broken)} files broken")
    return emit(arguments, broken, lambda: "\n".join(lines), code=1 if broken else 0)


def _collect(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.runs.maintenance import collect_weights

    result = collect_weights(store, grace=arguments.grace, act=arguments.yes)
    last = summary(len(result.removed), "weight files", result.bytes, acted=arguments.yes)
    lines = [*(f"  {name}" for name in result.removed), last]
    return emit(arguments, {**asdict(result), "acted": arguments.yes}, lambda: "\n".join(lines))


def _remove(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.runs.maintenance import remove_run

    record = store.find(arguments.run)
    names = remove_run(store, record, act=arguments.yes)
    verb, hint = ("removed", "") if arguments.yes else ("would remove", "; --yes removes them")
    text = f"{verb} run {record.run_id}: {len(names)} files; `emorec runs gc` removes its weights{hint}"
    return emit(arguments, {"run_id": record.run_id, "files": names, "acted": arguments.yes}, lambda: text)


def _export(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.runs.maintenance import export_run

    record, target = store.find(arguments.run), Path(arguments.folder).expanduser().absolute()
    export_run(store, record, target)
    return emit(arguments, {"run_id": record.run_id, "folder": str(target)}, lambda: f"exported to {target}")
