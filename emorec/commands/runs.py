"""`emorec runs ls|show`: what runs there are."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from emorec.commands.composition import compose_once
from emorec.errors import UserError
from emorec.reporting.tables import markdown_table

USAGE = "usage: emorec runs ls|show <run_id> [--json] [paths.checkpoints=…]"


def main(words: Sequence[str]) -> int:
    """Lists runs, or shows one."""
    as_json = "--json" in words
    rest = [word for word in words if word != "--json"]
    if not rest or rest[0] not in ("ls", "show") or "--help" in rest:
        if rest and rest[0] in ("--help", "-h"):
            print(USAGE)
            return 0
        raise UserError(f"expected ls or show, got {rest[:1] or 'nothing'}; {USAGE}")
    action, *rest = rest
    names = [word for word in rest if "=" not in word]
    composed = compose_once("report", [word for word in rest if "=" in word])
    assert composed is not None
    from emorec.runs.checkpoint_store import CheckpointStore

    store = CheckpointStore(Path(composed.config["paths"]["checkpoints"]))
    if action == "show":
        if len(names) != 1:
            raise UserError(f"expected one run id, got {names}; {USAGE}")
        return _show(store, names[0], as_json)
    return _list(store, as_json)


def _list(store: "object", as_json: bool) -> int:
    from emorec.commands.results import read_metrics
    from emorec.runs.checkpoint_store import CheckpointStore

    assert isinstance(store, CheckpointStore)
    records = list(store.records())
    if as_json:
        print(json.dumps([asdict(record) for record in records], indent=2))
        return 0
    rows = []
    for record in records:
        metrics = read_metrics(store.folder(record.run_id))
        monitor = f"val/{record.task['monitor']}"
        score = f"{monitor}={metrics[monitor]:.4f}" if monitor in metrics else ""
        what = [record.choices.get("dataset", ""), *(f"{key}={value}" for key, value in _told(record.choices))]
        rows.append(
            [record.run_id, record.status, record.started, " ".join(what), str(record.seed), str(record.fold), score]
        )
    print(markdown_table(["run", "status", "started", "what", "seed", "fold", "validation"], rows))
    return 0


def _told(choices: dict[str, str]) -> list[tuple[str, str]]:
    shown = [(key, value) for key, value in sorted(choices.items()) if key.startswith("encoder/") and value != "none"]
    return [*shown, *((key, choices[key]) for key in ("fusion", "loss") if key in choices)]


def _show(store: "object", prefix: str, as_json: bool) -> int:
    from emorec.commands.results import read_metrics
    from emorec.runs.checkpoint_store import CheckpointStore

    assert isinstance(store, CheckpointStore)
    record = store.find(prefix)
    folder = store.folder(record.run_id)
    metrics = read_metrics(folder)
    if as_json:
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
