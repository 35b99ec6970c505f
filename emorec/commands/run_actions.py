"""The actions of `emorec runs`, apart from its arguments. Nothing heavy is imported for them."""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from emorec.commands.arguments import emit, summary
from emorec.errors import UserError
from emorec.loggers.sync import uploads
from emorec.reporting.run_difference import command_of, difference_page, run_difference
from emorec.reporting.run_listing import run_page, runs_table
from emorec.runs.checkpoint_store import CheckpointStore
from emorec.runs.maintenance import collect_weights, export_run, remove_run, verify
from emorec.runs.results import read_metrics
from emorec.sweeps.display import sweep_page, sweeps_table
from emorec.sweeps.record import all_sweeps, find_sweep


def run_action(arguments: Namespace, checkpoints: Path) -> int:
    """Does what the arguments say in the store of runs; returns the exit code."""
    actions = {
        "ls": _list,
        "sweeps": _list_sweeps,
        "show": _show,
        "verify": _verify,
        "gc": _collect,
        "rm": _remove,
        "export": _export,
        "sync": _sync,
    }
    return actions[arguments.action](arguments, CheckpointStore(checkpoints))


def _list(arguments: Namespace, store: CheckpointStore) -> int:
    if arguments.sweep is not None:
        sweep = find_sweep(store.root / "sweeps", arguments.sweep)
        return emit(arguments, sweep.as_json(), lambda: sweep_page(sweep))
    records = list(store.records())
    return emit(arguments, [asdict(record) for record in records], lambda: runs_table(store, records))


def _list_sweeps(arguments: Namespace, store: CheckpointStore) -> int:
    sweeps = list(all_sweeps(store.root / "sweeps"))
    return emit(arguments, [sweep.as_json() for sweep in sweeps], lambda: sweeps_table(sweeps))


def _show(arguments: Namespace, store: CheckpointStore) -> int:
    expected = 2 if arguments.diff else 1
    if len(arguments.runs) != expected:
        raise UserError(f"expected {expected} run{'s' * (expected > 1)} to show, got {' '.join(arguments.runs)}")
    records = [store.find(run) for run in arguments.runs]
    if arguments.diff:
        first, second = ((record, store.folder(record.run_id)) for record in records)
        difference = run_difference(first, second)
        return emit(arguments, asdict(difference), lambda: difference_page(difference))
    (record,) = records
    if arguments.command:
        return emit(arguments, {"command": command_of(record)}, lambda: command_of(record))
    folder = store.folder(record.run_id)
    metrics = read_metrics(folder)
    value = {"run": asdict(record), "metrics": metrics, "folder": str(folder)}
    return emit(arguments, value, lambda: run_page(record, metrics, folder))


def _verify(arguments: Namespace, store: CheckpointStore) -> int:
    broken = verify(store)
    last = f"{len(store.scan()[0])} runs checked, {len(broken)} files broken"
    lines = [*(f"{name}: {reason}" for name, reason in broken.items()), last]
    return emit(arguments, broken, lambda: "\n".join(lines), code=1 if broken else 0)


def _collect(arguments: Namespace, store: CheckpointStore) -> int:
    result = collect_weights(store, grace=arguments.grace, act=arguments.act)
    last = summary(len(result.removed), "weight files", result.bytes, acted=arguments.act)
    lines = [*(f"  {name}" for name in result.removed), last]
    return emit(arguments, {**asdict(result), "acted": arguments.act}, lambda: "\n".join(lines))


def _remove(arguments: Namespace, store: CheckpointStore) -> int:
    record = store.find(arguments.run)
    names = remove_run(store, record, act=arguments.act)
    verb, hint = ("removed", "") if arguments.act else ("would remove", "; --yes removes them")
    text = f"{verb} run {record.run_id}: {len(names)} files; `emorec runs gc` removes its weights{hint}"
    return emit(arguments, {"run_id": record.run_id, "files": names, "acted": arguments.act}, lambda: text)


def _export(arguments: Namespace, store: CheckpointStore) -> int:
    record, target = store.find(arguments.run), Path(arguments.folder).expanduser().absolute()
    export_run(store, record, target)
    return emit(arguments, {"run_id": record.run_id, "folder": str(target)}, lambda: f"exported to {target}")


def _sync(arguments: Namespace, store: CheckpointStore) -> int:
    results = []
    for upload in uploads(store, arguments.runs, all_runs=arguments.all, act=arguments.act, timeout=arguments.timeout):
        results.append(asdict(upload))
        if not arguments.json:
            print(upload)
    if arguments.json or not results:
        emit(arguments, results, lambda: "nothing waits to be uploaded")
    return 1 if any(result["status"] == "failed" for result in results) else 0
