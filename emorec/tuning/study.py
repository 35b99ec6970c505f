"""A study: trials of a search space in a journal that several workers share, on one machine or on many.

The journal is an append-only file with a lock that works on network disks. Workers claim the study's folder to start a
trial or to replace a dead worker's, so that there are exactly as many trials as asked for. Each worker holds a lease; a
running trial whose worker holds none is given up.
"""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emorec.config.schema import StudyConfig
from emorec.errors import UserError, raise_problems
from emorec.storage.atomic import follow_folder_mode, make_folder, write_bytes
from emorec.storage.claims import Claim, Watch, acquire
from emorec.storage.folders import check_links
from emorec.storage.leases import in_use, take_lease, time_at
from emorec.tuning.search_space import Entry

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

log = logging.getLogger(__name__)

Definition = Mapping[str, Mapping[str, Any]]
JOURNAL = "journal.log"
ATTEMPTS = 3  # attempts at a trial whose workers die
WAIT_SECONDS = 0.5  # between two checks of the trials of other workers
_NOTHING = object()


def require_optuna() -> None:
    """Imports Optuna and silences its log.

    Raises:
        UserError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            f"expected Optuna for tuning, which is not installed: pip install 'emorec[sweep]' ({error})"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def drop_broken_lines(journal: Path) -> None:
    """Removes lines that are incomplete after a kill or a full disk; Optuna could not read the lines after them."""
    try:
        lines = journal.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    complete = [line for line in lines if line.endswith(b"\n") and _is_json(line)]
    if complete and len(complete) < len(lines):  # a file without any complete line is no journal
        log.warning("%s: removed %d incomplete lines", journal, len(lines) - len(complete))
        write_bytes(journal, b"".join(complete))


def _is_json(line: bytes) -> bool:
    with suppress(ValueError):
        json.loads(line)
        return True
    return False


class Study:
    """A study as one worker sees it; a context manager.

    Args:
        folder: of the study; the first worker creates it.
        settings: of this worker.
        direction: "max" or "min".
        definition: {part: {key: primitive value}} that must be equal for all workers.
        stale_after: seconds without a heartbeat after which a worker on another host counts as dead.

    Raises:
        UserError: the study was started with another definition, or its journal is broken.
    """

    def __init__(
        self, folder: Path, settings: StudyConfig, *, direction: str, definition: Definition, stale_after: float
    ) -> None:
        self.folder, self.settings, self.direction = make_folder(folder), settings, direction
        check_links(self.folder)
        self.stale_after = stale_after
        self._deadline = math.inf if settings.timeout is None else time.monotonic() + settings.timeout
        self._workers = make_folder(folder / "workers")
        self._watches: dict[str, Watch] = {}
        with self._claim():
            first = not in_use(self._workers, time_at(self._workers))
            self._study = self._open(repair=first)
            self._check(json.loads(json.dumps(definition)))
            if first:
                self._retry_failed()
        lease = take_lease(self._workers)
        if lease is None:
            raise UserError(f"expected a writable folder, got {self._workers}")
        self._lease = lease

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *_: object) -> None:
        self._lease.release()

    def _claim(self) -> Claim:
        """Claims the study, so that only one worker at a time changes it."""
        claim = acquire(self.folder / "study.claim", stale_after=self.stale_after, poll=0.05)
        assert claim is not None
        return claim

    def _open(self, *, repair: bool) -> "optuna.Study":
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

        path = self.folder / JOURNAL
        if repair:
            drop_broken_lines(path)
        try:
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
            study = optuna.create_study(
                storage=storage,
                study_name=self.settings.name,
                direction="maximize" if self.direction == "max" else "minimize",
                pruner=self._pruner(),
                load_if_exists=True,
            )
        except (ValueError, KeyError) as error:
            raise UserError(f"expected the journal of a study in {path}, got {error}") from error
        with suppress(PermissionError):  # the file is another user's, whose process has set the mode
            follow_folder_mode(path)
        return study

    def _pruner(self) -> "optuna.pruners.BasePruner":
        from optuna import pruners

        settings = self.settings
        if settings.pruner == "median":
            return pruners.MedianPruner(n_startup_trials=settings.startup, n_warmup_steps=settings.warmup)
        if settings.pruner == "asha":
            return pruners.SuccessiveHalvingPruner(min_resource=max(1, settings.warmup))
        return pruners.NopPruner()

    def _check(self, definition: Definition) -> None:
        """Compares the definition with that of the study, or stores it in a new study."""
        stored = self._study.user_attrs.get("definition")
        if stored is None:
            self._study.set_user_attr("definition", definition)
            return
        problems = [
            f"{part}: {key} is {old.get(key, 'not set')!r} in the study, {new.get(key, 'not set')!r} here"
            for part in {**stored, **definition}
            for old, new in [(stored.get(part, {}), definition.get(part, {}))]
            for key in {**old, **new}
            if old.get(key, _NOTHING) != new.get(key, _NOTHING)
        ]
        raise_problems(f"study {self.settings.name} has another config; choose a new study.name", problems)

    def ask(self, entries: Sequence[Entry]) -> "Trial | None":
        """Starts the next trial and draws its values; `None` once there are enough trials, or after the timeout.

        Waits while other workers run the last trials, as one of them may die.
        """
        is_waiting = False
        while time.monotonic() < self._deadline:
            with self._claim():
                self._give_up_dead_workers()
                finished, running = self.finished(), self._of_state("RUNNING")
                if len(finished) >= self.settings.trials:
                    return None
                if len(finished) + len(running) < self.settings.trials:
                    return self._new_trial(entries)
            if not is_waiting:
                log.info("waiting for %d trial(s) of other workers", len(running))
                is_waiting = True
            time.sleep(WAIT_SECONDS)
        log.info("this worker has reached its timeout (study.timeout=%s)", self.settings.timeout)
        return None

    def _new_trial(self, entries: Sequence[Entry]) -> "Trial":
        import numpy as np
        from optuna.samplers import TPESampler

        others = len(self._given_up()) + len(self._of_state("WAITING"))
        number = len(self._study.get_trials(deepcopy=False)) - others
        # One seed a trial: which worker draws it, and interruptions, do not change the values.
        seed = int(np.random.SeedSequence([self.settings.seed, number]).generate_state(1)[0])
        self._study.sampler = TPESampler(seed=seed, n_startup_trials=self.settings.startup, constant_liar=True)
        trial = self._study.ask()
        trial.set_user_attr("worker", self._lease.path.name)
        trial.set_user_attr("process", str(self._lease.holder))
        for entry in entries:
            entry.suggest(trial)
        return trial

    def _give_up_dead_workers(self) -> None:
        for trial in self._of_state("RUNNING"):
            if self._is_dead(trial.user_attrs.get("worker")):
                attempt = trial.user_attrs.get("attempt", 1)
                process = trial.user_attrs.get("process", "its worker")
                log.warning("trial %d: %s ended without finishing it", trial.number, process)
                if attempt < ATTEMPTS:
                    self._give_up(trial, attempt=attempt + 1)
                else:
                    self._study.tell(trial.number, state=_state("FAIL"), skip_if_finished=True)

    def _is_dead(self, worker: str | None) -> bool:
        if worker is None or not (self._workers / worker).exists():
            return True
        if worker not in self._watches:
            self._watches[worker] = Watch(self._workers / worker, self.stale_after)
        return self._watches[worker].stale()

    def give_up(self, trial: "Trial") -> None:
        """Queues the values of this worker's interrupted trial for another trial."""
        with self._claim():
            (frozen,) = [item for item in self._study.get_trials(deepcopy=False) if item.number == trial.number]
            if not frozen.state.is_finished():
                self._give_up(frozen, attempt=trial.user_attrs.get("attempt", 1))

    def _retry_failed(self) -> None:
        """Queues trials that failed in an earlier start again, as the cause may be gone: a full disk, a missing GPU."""
        given_up = set(self._given_up())
        for trial in self._of_state("FAIL"):
            if trial.number not in given_up:
                log.info("trial %d failed in an earlier start: its values are tried again", trial.number)
                self._give_up(trial, attempt=1)

    def _give_up(self, trial: "FrozenTrial", *, attempt: int) -> None:
        """Marks a trial as failed without counting it, and queues its values again."""
        self._study.set_user_attr("given_up", sorted({*self._given_up(), trial.number}))
        self._study.tell(trial.number, state=_state("FAIL"), skip_if_finished=True)
        self._study.enqueue_trial(trial.params, user_attrs={"attempt": attempt, "again": trial.number})

    def _given_up(self) -> list[int]:
        return list(self._study.user_attrs.get("given_up", []))

    def _of_state(self, name: str) -> list["FrozenTrial"]:
        return self._study.get_trials(deepcopy=False, states=(_state(name),))

    def finished(self) -> list["FrozenTrial"]:
        """The trials that count: complete, pruned, or failed without being given up."""
        given_up = set(self._given_up())
        trials = self._study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state.is_finished() and trial.number not in given_up]

    def complete(self) -> list["FrozenTrial"]:
        """The trials with a finite value, best first; of equal ones the earlier first."""
        sign = -1 if self.direction == "max" else 1
        trials = [trial for trial in self._of_state("COMPLETE") if math.isfinite(trial.values[0])]
        return sorted(trials, key=lambda trial: (sign * trial.values[0], trial.number))

    def tell(self, trial: "Trial", value: float, run_id: str) -> None:
        """Ends a trial with its value."""
        _note(trial, "run_id", run_id)
        self._study.tell(trial.number, value, skip_if_finished=True)

    def tell_pruned(self, trial: "Trial") -> None:
        """Ends a trial that was pruned."""
        self._study.tell(trial.number, state=_state("PRUNED"), skip_if_finished=True)

    def tell_failed(self, trial: "Trial", error: str) -> None:
        """Ends a trial with an error."""
        _note(trial, "error", error)
        self._study.tell(trial.number, state=_state("FAIL"), skip_if_finished=True)


def _note(trial: "Trial", key: str, value: str) -> None:
    with suppress(RuntimeError):  # another worker has given the trial up in the meantime
        trial.set_user_attr(key, value)


def _state(name: str) -> "optuna.trial.TrialState":
    from optuna.trial import TrialState

    return TrialState[name]
