"""`emorec tune`: tries values of a search space, each as an ordinary run, and writes the best as an experiment."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emorec.config.command_line import parse
from emorec.config.composition import composer, print_with_hydra
from emorec.config.schema import TuneConfig
from emorec.errors import UserError
from emorec.imports import quick_imports
from emorec.markdown import markdown_table
from emorec.runs.logs import start_logging
from emorec.tuning.study import JOURNAL, Study, require_optuna

if TYPE_CHECKING:
    from emorec.tuning.experiment_file import Experiment
    from emorec.tuning.trials import Search

SHOWN = 5  # of the best trials


def main(arguments: Sequence[str]) -> int:
    """Works on a study until it has its trials; returns 0, or 1 if none of them finished."""
    as_json = "--json" in arguments
    line = parse("tune", [word for word in arguments if word != "--json"])
    if line.prints_only:
        return print_with_hydra(line)
    if line.multirun:
        raise UserError("expected no -m, since a study makes its trials itself; search=… says what it tries")
    require_optuna()
    start_logging()
    with quick_imports():
        from emorec.tuning.trials import prepare_search, run_trial, write_best
        from emorec.tuning.workers import follow_parent, run_workers

    follow_parent()

    with composer(line, TuneConfig) as open_composer:
        search = prepare_search(open_composer)
        try:
            with search.study:
                if search.study.settings.workers > 1:
                    run_workers(line, search.study.settings.workers)
                while (trial := search.study.ask(search.entries)) is not None:
                    run_trial(search, trial)
                experiment = write_best(search)
        except json.JSONDecodeError as error:
            raise UserError(
                f"expected whole lines in {search.study.folder / JOURNAL}, got {error}; once no worker runs, the next "
                "start drops broken ones"
            ) from error
        print(_as_json(search, experiment) if as_json else _table(search, experiment))
        return 0 if search.study.complete() else 1


def _counts(study: Study) -> dict[str, int]:
    states = [trial.state.name for trial in study.finished()]
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return {name: states.count(state) for state, name in names.items()}


def _table(search: "Search", experiment: "Experiment | None") -> str:
    counts = ", ".join(f"{count} {word}" for word, count in _counts(search.study).items())
    summary = f"study {search.study.settings.name}: {counts}  {search.study.folder}"
    if experiment is None:
        return summary
    from emorec.tuning.trials import run_of, short

    keys = [entry.key for entry in search.entries]
    rows = [
        [str(trial.number), f"{trial.value:.4f}", run_of(trial), *(short(trial.params.get(key)) for key in keys)]
        for trial in search.study.complete()[:SHOWN]
    ]
    table = markdown_table(["trial", search.monitor, "run", *keys], rows)
    return "\n".join([table, summary, f"the best: {experiment.path}", f"  {experiment.command}"])


def _as_json(search: "Search", experiment: "Experiment | None") -> str:
    from emorec.tuning.trials import run_of

    study = search.study
    best = [
        {"trial": trial.number, "value": trial.value, "run_id": run_of(trial), "parameters": trial.params}
        for trial in study.complete()[:SHOWN]
    ]
    result = {
        "study": study.settings.name,
        "folder": str(study.folder),
        "monitor": search.monitor,
        "direction": study.direction,
        "trials": _counts(study),
        "best": best,
        "experiment": None if experiment is None else str(experiment.path),
        "command": None if experiment is None else experiment.command,
    }
    return json.dumps(result, indent=2)
