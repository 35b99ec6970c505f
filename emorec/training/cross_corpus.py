"""The cross-corpus matrix: trained on the corpora of the rows, tested on those of the columns."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emorec.config.composition import Composed
from emorec.config.schema import EvaluateConfig, TrainConfig
from emorec.datamodules.preparer import DataPreparer
from emorec.errors import UserError, raise_problems
from emorec.escaping import for_csv
from emorec.markdown import markdown_table
from emorec.reporting.heat_map import heat_map_png
from emorec.runs.checkpoint_store import MATRICES, CheckpointStore, RunRecord
from emorec.runs.results import SHOWN, read_metrics, remarks, scalar_metrics
from emorec.storage.atomic import write_bytes, write_text
from emorec.storage.digests import digest_of
from emorec.training.evaluation import WHOLE, Evaluation, evaluate_run
from emorec.training.lifecycle import finished_run

OWN = "test"  # the split of the diagonal


@dataclass(frozen=True)
class Cell:
    """A run on a corpus."""

    trained_on: str
    tested_on: str
    run_id: str
    utterances: int
    scores: dict[str, float]  # {metric: value} of those that are finite
    source: str  # digest of the weights and of the tested corpus

    @property
    def is_own(self) -> bool:
        """Whether it is the run's own corpus, of which only the test split counts."""
        return self.trained_on == self.tested_on


def cross_corpus(
    names: Sequence[str],
    train_config: Callable[[str], Composed[TrainConfig]],
    evaluate_config: Callable[[str, str], Composed[EvaluateConfig]],
) -> str:
    """Trains a config on each corpus, or finds its run, and tests it on all of them; returns the table.

    On its own corpus the result of a run is that of its test split; on another one that of all utterances. The table, a
    CSV file with all metrics and a heat map are written to `matrices/<digest>/` of the store.

    Args:
        names: of corpora, choices of the group `dataset`.
        train_config: the config to train, of a corpus's name.
        evaluate_config: the config to evaluate, of a run and a corpus's name.

    Raises:
        UserError: fewer than two corpora, or their classes differ.
    """
    _check_names(names)
    configs = {name: train_config(name) for name in names}
    raise_problems("matrix", [*_problems(configs)])
    preparers = {name: DataPreparer.of(composed.config) for name, composed in configs.items()}
    _check_classes(configs, preparers)
    store = CheckpointStore(configs[names[0]].config.paths.checkpoints)
    records = {}
    for name, composed in configs.items():  # all of them first: one that cannot train ends it before any is tested
        records[name], _ = finished_run(composed, preparers[name])
    kind, monitor = (str(records[names[0]].task[key]) for key in ("kind", "monitor"))
    metrics = list(dict.fromkeys([monitor, *SHOWN[kind]]))
    cells = [
        _own_cell(name, records[name], store.folder(records[name].run_id), metrics)
        if name == other
        else _cell(name, other, records[name], evaluate_run(evaluate_config(records[name].run_id, other), {}), metrics)
        for name in names
        for other in names
    ]
    notes = list(dict.fromkeys(note for record in records.values() for note in remarks(record)))
    return _write(store.root, names, cells, metrics, notes)


def _check_names(names: Sequence[str]) -> None:
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(
            f"matrix: expected at least two different corpora, such as [ravdess,crema_d], got {list(names)}"
        )


def _problems(configs: dict[str, Composed[TrainConfig]]) -> list[str]:
    """What does not fit in the configs of the rows."""
    problems = []
    for name, composed in configs.items():
        if composed.wants_all_folds:
            problems.append(f"dataset.fold: expected a number, got 'all' (dataset={name})")
        elif not composed.config.test:
            problems.append(f"test: expected true for a matrix of test results, got false (dataset={name})")
    return problems


def _check_classes(configs: Mapping[str, Composed[TrainConfig]], preparers: Mapping[str, DataPreparer]) -> None:
    """Raises a `UserError` where the corpora have different classes; they are read, and nothing is computed."""
    found = {}
    for name, preparer in preparers.items():
        corpus, _ = preparer.components(configs[name].config)
        found[name] = list(corpus.chosen_task(preparer.manifest(configs[name].config, corpus)).labels)
    if len(set(map(tuple, found.values()))) > 1:
        hint = "expected a map that gives all corpora the same classes, such as four_emotions"
        raise UserError(f"labels: {hint}, got {found}")


def _own_cell(name: str, record: RunRecord, folder: Path, metrics: Sequence[str]) -> Cell:
    """The result of a run on its own test split."""
    scores = scalar_metrics(read_metrics(folder))
    count, source = int(record.data["utterances"][OWN]), digest_of([record.weights, record.data.get("corpus")])
    return Cell(name, name, record.run_id, count, _of_split(scores, OWN, metrics), source)


def _cell(name: str, other: str, record: RunRecord, found: Evaluation, metrics: Sequence[str]) -> Cell:
    """The result of a run on all of another corpus."""
    source = digest_of([record.weights, found.data.manifest.digest])
    return Cell(name, other, record.run_id, found.utterances, _of_split(found.metrics, WHOLE, metrics), source)


def _of_split(scores: Mapping[str, float], split: str, metrics: Sequence[str]) -> dict[str, float]:
    return {name: scores[f"{split}/{name}"] for name in metrics if f"{split}/{name}" in scores}


def _write(
    root: Path, names: Sequence[str], cells: Sequence[Cell], metrics: Sequence[str], notes: Sequence[str]
) -> str:
    """Writes the files of the matrix; returns the table."""
    folder, monitor = root / MATRICES / digest_of([cell.source for cell in cells])[:12], metrics[0]
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["trained_on", "tested_on", "split", "run", "utterances", *metrics])
    for cell in cells:
        split = OWN if cell.is_own else WHOLE
        values = [f"{cell.scores[name]:.6f}" if name in cell.scores else "" for name in metrics]
        own = [for_csv(text) for text in (cell.trained_on, cell.tested_on, split, cell.run_id)]
        table.writerow([*own, cell.utterances, *values])
    write_text(folder / "matrix.csv", stream.getvalue())
    by_row = [cells[start : start + len(names)] for start in range(0, len(cells), len(names))]
    scores = [[cell.scores.get(monitor) for cell in row] for row in by_row]
    counts = [[cell.utterances for cell in row] for row in by_row]
    write_bytes(folder / "matrix.png", heat_map_png(scores, counts, names, metric=monitor, notes=notes))
    rows = [[row[0].trained_on, *(_text(cell, monitor) for cell in row)] for row in by_row]
    lines = [
        markdown_table([f"{monitor}: trained on", *(f"tested on {name}" for name in names)], rows),
        "",
        f"(n) utterances; the diagonal is a run's own test split, all else whole corpora; files: {folder}",
    ]
    text = "\n".join([*lines, *notes])
    write_text(folder / "matrix.md", f"{text}\n")
    return text


def _text(cell: Cell, monitor: str) -> str:
    value = f"{cell.scores[monitor]:.3f}" if monitor in cell.scores else "–"
    return f"{value} ({cell.utterances})"
