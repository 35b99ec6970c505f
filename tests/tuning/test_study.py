import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from emorec.config.schema import StudyConfig
from emorec.config.validation import validated
from emorec.errors import UserError
from emorec.storage.atomic import write_json
from emorec.storage.claims import this_process
from emorec.tuning.search_space import Entry
from emorec.tuning.study import Study

ENTRIES = [
    Entry("rate", {"distribution": "log_uniform", "low": 1e-5, "high": 1.0}),
    Entry("width", {"distribution": "choice", "values": [1, 2, 4]}),
]
SETTINGS = StudyConfig(name="name", trials=4, seed=0, startup=2, pruner="none", warmup=0, timeout=None)
DEFINITION = {"search": {"rate": {"low": 1}}, "config": {"model.hidden": 16, "seed": 0}}
Open = Callable[..., Study]


@pytest.fixture
def open_study(tmp_path: Path) -> Open:
    def opened(definition: dict[str, Any] = DEFINITION, direction: str = "max", **changes: Any) -> Study:
        settings = replace(SETTINGS, **changes)
        return Study(tmp_path / "name", settings, direction=direction, definition=definition, stale_after=60)

    return opened


def values(study: Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.finished()]


def test_a_study_has_as_many_trials_as_asked_for_and_ranks_them(open_study: Open) -> None:
    with open_study() as study:
        for value in (0.2, 0.9, 0.9, 0.1):
            trial = study.ask(ENTRIES)
            assert trial is not None
            study.tell(trial, value, f"run{trial.number}")
        assert study.ask(ENTRIES) is None
        assert [trial.number for trial in study.complete()] == [1, 2, 0, 3]
        assert study.complete()[0].user_attrs["run_id"] == "run1"


def test_a_low_value_is_best_where_the_direction_says_so(open_study: Open) -> None:
    with open_study(direction="min") as study:
        for value in (0.2, 0.1):
            study.tell(study.ask(ENTRIES), value, "run")  # type: ignore[arg-type]
        assert [trial.value for trial in study.complete()] == [0.1, 0.2]


def test_a_value_that_is_not_finite_is_never_the_best(open_study: Open) -> None:
    with open_study() as study:
        for value in (float("inf"), 0.1, float("-inf"), float("nan")):
            study.tell(study.ask(ENTRIES), value, "run")  # type: ignore[arg-type]
        assert [trial.value for trial in study.complete()] == [0.1]


def test_pruned_and_failed_trials_count(open_study: Open) -> None:
    with open_study(trials=2) as study:
        study.tell_failed(study.ask(ENTRIES), "broke")  # type: ignore[arg-type]
        study.tell_pruned(study.ask(ENTRIES))  # type: ignore[arg-type]
        assert study.ask(ENTRIES) is None
        assert study.complete() == []
        assert [trial.state.name for trial in study.finished()] == ["FAIL", "PRUNED"]


def test_which_worker_asks_does_not_change_what_is_drawn(open_study: Open) -> None:
    with open_study() as one, open_study() as other:
        drawn = []
        for study in (one, other, one, other):
            trial = study.ask(ENTRIES)
            assert trial is not None
            drawn.append(trial.params)
            study.tell(trial, trial.params["rate"], "run")
    assert len({str(found) for found in drawn}) == 4
    with open_study(trials=8) as study:
        assert values(study) == drawn


def test_the_values_of_an_interrupted_trial_are_tried_again_and_it_does_not_count(open_study: Open) -> None:
    with open_study(trials=1) as study:
        trial = study.ask(ENTRIES)
        assert trial is not None
        study.give_up(trial)
        assert study.finished() == []
        again = study.ask(ENTRIES)
        assert again is not None
        assert again.params == trial.params
        assert again.user_attrs["again"] == trial.number
        study.tell(again, 0.5, "run")
        assert study.ask(ENTRIES) is None


def test_an_interruption_changes_no_later_draw(open_study: Open, tmp_path: Path) -> None:
    def drawn(settings: dict[str, Any], interrupted: bool) -> list[dict[str, Any]]:
        with open_study(**settings) as study:
            for value in (0.2, 0.9, 0.4, 0.5):
                trial = study.ask(ENTRIES)
                if interrupted and value == 0.9:
                    study.give_up(trial)  # type: ignore[arg-type]
                    trial = study.ask(ENTRIES)
                study.tell(trial, value, "run")  # type: ignore[arg-type]
            return values(study)

    undisturbed = drawn({}, interrupted=False)
    (tmp_path / "name" / "journal.log").unlink()
    assert drawn({}, interrupted=True) == undisturbed


def test_what_failed_is_tried_again_by_a_later_start(open_study: Open) -> None:
    with open_study(trials=2) as study:
        study.tell(study.ask(ENTRIES), 0.5, "run")  # type: ignore[arg-type]
        failed = study.ask(ENTRIES)
        study.tell_failed(failed, "no space left")  # type: ignore[arg-type]
        assert study.ask(ENTRIES) is None
        with open_study(trials=2) as other:  # beside a live worker nothing is tried again
            assert other.ask(ENTRIES) is None
    with open_study(trials=2) as study:
        again = study.ask(ENTRIES)
        assert again is not None
        assert again.params == failed.params  # type: ignore[union-attr]
        study.tell(again, 0.7, "run")
        assert [trial.value for trial in study.complete()] == [0.7, 0.5]


def test_results_of_a_trial_that_was_given_up_elsewhere_are_ignored(open_study: Open) -> None:
    with open_study() as study:
        trial = study.ask(ENTRIES)
        assert trial is not None
        study.give_up(trial)
        study.give_up(trial)
        study.tell(trial, 0.5, "run")
        study.tell_failed(trial, "broke")
        study.tell_pruned(trial)
        assert study.finished() == []


def _ask_and_die(folder: Path) -> None:
    """Another process asks for a trial and is killed."""
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.tuning.test_study import *; "
        "study = Study(Path(sys.argv[1]), SETTINGS, direction='max', definition=DEFINITION, stale_after=60); "
        "study.ask(ENTRIES); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).resolve().parent.parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, check=False, timeout=300)


def test_the_trial_of_a_killed_worker_is_tried_again_three_times_at_most(
    open_study: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        _ask_and_die(tmp_path / "name")
    with open_study(trials=2) as study:
        trial = study.ask(ENTRIES)
        assert trial is not None
        assert [found.state.name for found in study.finished()] == ["FAIL"]
        assert "again" not in trial.user_attrs
        assert study.finished()[0].params != trial.params
    assert "ended without finishing it" in caplog.text
    assert list((tmp_path / "name" / "workers").glob("*.lease")) == []


def test_a_worker_of_another_host_is_waited_for_until_it_shows_no_sign_of_life(
    open_study: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="emorec")
    with open_study(trials=1) as there, open_study(trials=1) as here:
        here.stale_after = 1.5
        trial = there.ask(ENTRIES)
        assert trial is not None
        lease = there._lease
        lease._stop.set()  # no sign of life from now on
        write_json(lease.path, {**asdict(this_process()), "host": "elsewhere"})
        started = time.monotonic()
        again = here.ask(ENTRIES)
        assert time.monotonic() - started > 1
        assert again is not None
        assert again.params == trial.params
    assert "waiting for 1 trial(s) of other workers" in caplog.text


def test_a_worker_starts_no_trial_after_its_time(open_study: Open) -> None:
    with open_study(timeout=0.01) as study:
        time.sleep(0.02)
        assert study.ask(ENTRIES) is None


def test_another_definition_is_refused_and_the_difference_is_reported(open_study: Open) -> None:
    with open_study():
        pass
    changed = {"search": {"rate": {"low": 2}, "width": {}}, "config": {"model.hidden": 32, "seed": 0}}
    with pytest.raises(UserError) as caught:
        open_study(changed)
    message = str(caught.value)
    assert "model.hidden is 16 in the study, 32 here" in message
    assert "rate is {'low': 1} in the study, {'low': 2} here" in message
    assert "width is 'not set' in the study" in message
    assert "seed" not in message
    with open_study(trials=9, seed=4, pruner="median"):
        pass


def test_an_incomplete_line_of_a_killed_worker_is_removed(
    open_study: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_study() as study:
        study.tell(study.ask(ENTRIES), 0.5, "run")  # type: ignore[arg-type]
    with (tmp_path / "name" / "journal.log").open("a") as stream:
        stream.write('{"op_code":4,"wor{"op_code":4}\n{"op_code":4,"wor')
    with open_study() as study:
        assert len(study.finished()) == 1
        study.tell(study.ask(ENTRIES), 0.6, "run")  # type: ignore[arg-type]
    with open_study() as study:
        assert len(study.finished()) == 2
    assert "incomplete lines" in caplog.text


def test_a_file_that_is_no_journal_is_reported(open_study: Open, tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    (tmp_path / "name" / "journal.log").write_text("no journal\nat all\n")
    with pytest.raises(UserError, match=r"expected the journal of a study in .*journal\.log"):
        open_study()


@pytest.mark.parametrize(("pruner", "pruned_after"), [("none", None), ("median", 3), ("asha", 3)])
def test_pruners_leave_a_trial_its_first_epochs(open_study: Open, pruner: str, pruned_after: int | None) -> None:
    def first_pruned(trial: Any, value: float) -> int | None:
        for epoch in range(1, 7):
            trial.report(value, epoch)
            if trial.should_prune():
                return epoch
        return None

    with open_study(pruner=pruner, warmup=3, startup=1) as study:
        good = study.ask(ENTRIES)
        assert good is not None
        assert first_pruned(good, 0.9) is None
        study.tell(good, 0.9, "run")
        assert first_pruned(study.ask(ENTRIES), 0.1) == pruned_after


def test_all_invalid_settings_are_reported_at_once() -> None:
    wrong = {"name": "a/b", "trials": 0, "seed": -1, "startup": True, "pruner": "best", "warmup": 1.5, "timeout": 0}
    with pytest.raises(UserError) as caught:
        validated(StudyConfig, wrong)
    assert all(f"- {key}: expected" in str(caught.value) for key in wrong)
    with pytest.raises(UserError, match="name: expected a name of letters"):
        validated(StudyConfig, {**asdict(SETTINGS), "name": "null"})
    assert validated(StudyConfig, asdict(SETTINGS)) == SETTINGS
