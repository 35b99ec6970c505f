"""`emorec runs ls|sweeps|show|verify|gc|rm|export|sync`: looks after the runs."""

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from emorec.commands.arguments import Parser, add_action, duration, parse, told
from emorec.runs.logs import start_logging
from emorec.loggers.sync import add_sync, sync
from emorec.errors import UserError
from emorec.markdown import markdown_table

if TYPE_CHECKING:
    from emorec.runs.checkpoint_store import CheckpointStore


def main(words: Sequence[str]) -> int:
    """Runs a subcommand; `verify` returns 1 where something is broken."""
    parser = Parser(prog="emorec runs", description="Looks after the runs.")
    actions = parser.add_subparsers(dest="action", required=True, parser_class=Parser)
    listed = add_action(actions, "ls", "lists the runs")
    listed.add_argument("--sweep", metavar="NAME", help="the jobs of one multirun, with their runs")
    add_action(actions, "sweeps", "lists the multiruns")
    show = add_action(actions, "show", "shows a run: its record, its metrics, its scores a class")
    add_action(actions, "verify", "hashes all weights again and follows all links")
    collect = add_action(actions, "gc", "removes weights that no run links to; without --yes it only tells")
    collect.add_argument("--grace", type=duration, default=86400.0, help="untouched for so long, 1d if not given")
    remove = add_action(actions, "rm", "removes a run; without --yes it only tells")
    for action in (collect, remove):
        action.add_argument("--yes", action="store_true", help="remove them")
    export = add_action(actions, "export", "copies a run to a new folder, with real files in place of links")
    for action in (show, remove, export):
        action.add_argument("run", help="the run's id, or the first digits of it")
    export.add_argument("folder", help="a folder that is not there yet")
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
    return run[arguments.action](arguments, CheckpointStore(Path(paths["checkpoints"])))


def _list(arguments: Namespace, store: "CheckpointStore") -> int:
    if arguments.sweep is not None:
        return _list_jobs(arguments, store)
    from emorec.runs.results import read_metrics

    records = list(store.records())
    if arguments.json:
        print(json.dumps([asdict(record) for record in records], indent=2))
        return 0
    rows = []
    for record in records:
        metrics = read_metrics(store.folder(record.run_id))
        monitor = f"val/{record.task['monitor']}"
        score = f"{monitor}={metrics[monitor]:.4f}" if monitor in metrics else ""
        what = " ".join(_told(record.choices))
        fold = "" if record.fold is None else str(record.fold)
        rows.append([record.run_id, record.status, record.started, what, str(record.seed), fold, score])
    print(markdown_table(["run", "status", "started", "what", "seed", "fold", "validation"], rows))
    return 0


def _list_jobs(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.sweeps.display import job_cells, summary
    from emorec.sweeps.record import read_sweep

    folder = store.root / "sweeps" / arguments.sweep
    if not folder.is_dir():
        raise UserError(f"expected the name of a sweep, got {arguments.sweep!r} (emorec runs sweeps lists them)")
    sweep = read_sweep(folder)
    if arguments.json:
        print(json.dumps({**asdict(sweep), "folder": str(sweep.folder)}, indent=2))
        return 0
    print(markdown_table(*job_cells(sweep.all_jobs)))
    print(f"{summary(sweep.all_jobs)}  {sweep.folder}")
    return 0


def _list_sweeps(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.sweeps.display import summary
    from emorec.sweeps.record import all_sweeps

    sweeps = list(all_sweeps(store.root / "sweeps"))
    if arguments.json:
        print(json.dumps([{**asdict(sweep), "folder": str(sweep.folder)} for sweep in sweeps], indent=2))
        return 0
    rows = [
        [sweep.name, sweep.started, sweep.launcher, str(len(sweep.all_jobs)), summary(sweep.all_jobs)]
        for sweep in sweeps
    ]
    print(markdown_table(["sweep", "started", "launcher", "jobs", "of them"], rows))
    return 0


def _told(choices: dict[str, str]) -> list[str]:
    shown = [choices.get("dataset", "")]
    shown += [choices[key] for key in sorted(choices) if key.startswith("encoder/") and choices[key] != "none"]
    return [*shown, *(choices[key] for key in ("fusion", "loss") if key in choices)]


def _show(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.runs.results import read_metrics

    record = store.find(arguments.run)
    folder = store.folder(record.run_id)
    metrics = read_metrics(folder)
    if arguments.json:
        print(json.dumps({"run": asdict(record), "metrics": metrics, "folder": str(folder)}, indent=2))
        return 0
    for key, value in asdict(record).items():
        print(f"{key:<12}{json.dumps(value, ensure_ascii=False)}")
    for key, value in metrics.items():
        if isinstance(value, float):
            print(f"{key:<20}{value:.4f}")
    for split in ("val", "test"):
        if f"{split}/per_class" in metrics:
            rows = [
                [label, *(f"{row[key]:.3f}" for key in ("precision", "recall", "f1")), str(row["support"])]
                for label, row in metrics[f"{split}/per_class"].items()
            ]
            print(f"\n{split}\n{markdown_table(['class', 'precision', 'recall', 'f1', 'support'], rows)}")
    print(f"\n{folder}")
    return 0


def _verify(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.runs.maintenance import verify

    broken = verify(store)
    if arguments.json:
        print(json.dumps(broken, indent=2))
    else:
        print("\n".join(f"{name}: {why}" for name, why in broken.items()))
        print(f"{sum(1 for _ in store.records())} runs checked, {len(broken)} files broken")
    return 1 if broken else 0


def _collect(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.runs.maintenance import collect_weights

    found = collect_weights(store, grace=arguments.grace, act=arguments.yes)
    if arguments.json:
        print(json.dumps({**asdict(found), "acted": arguments.yes}, indent=2))
    else:
        print("\n".join(f"  {name}" for name in found.removed))
        print(told(len(found.removed), "weight files", found.bytes, acted=arguments.yes))
    return 0


def _remove(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.runs.maintenance import remove_run

    record = store.find(arguments.run)
    names = remove_run(store, record, act=arguments.yes)
    if arguments.json:
        print(json.dumps({"run_id": record.run_id, "files": names, "acted": arguments.yes}, indent=2))
    else:
        verb = "removed" if arguments.yes else "would remove"
        hint = "" if arguments.yes else "; --yes does it"
        print(f"{verb} run {record.run_id}: {len(names)} files; its weights go with `emorec runs gc`{hint}")
    return 0


def _export(arguments: Namespace, store: "CheckpointStore") -> int:
    from emorec.runs.maintenance import export_run

    record, target = store.find(arguments.run), Path(arguments.folder).expanduser().absolute()
    export_run(store, record, target)
    print(json.dumps({"run_id": record.run_id, "folder": str(target)}) if arguments.json else f"exported to {target}")
    return 0
