"""Training on several ranks: processes that emorec starts itself, or those of torchrun and Slurm.

Lightning never starts processes here: it would replay the whole command line, a multirun included.
"""

import json
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any, NoReturn

import torch

from emorec.config.composition import Composed
from emorec.config.schema import TrainConfig, TrainerConfig
from emorec.errors import Preempted, RunTakenOverError, UserError
from emorec.features.devices import release_memory
from emorec.training.processes import Child, Handover, end_children, start_child, when_parent_ends

log = logging.getLogger(__name__)

VARIABLE = "EMOREC_RANK"  # holds an `Assignment` in the ranks that emorec starts
GRACE_SECONDS = 20.0  # between the request to end and the kill
POLL_SECONDS = 0.1
PORTS = (20_000, 32_000)
ACKNOWLEDGE_SECONDS = 60.0  # for all ranks to read that there is nothing to train


@dataclass(frozen=True)
class Assignment:
    """What the process that holds a run's claim tells the ranks."""

    trains: bool  # false where the run needs no training
    state: str | None = None  # path of the state to resume from
    parent: int | None = None  # the process that has started the ranks, if it is emorec

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Assignment":
        return Assignment(**json.loads(text))


def own_assignment() -> Assignment | None:
    """The assignment of a rank that emorec has started; `None` in any other process."""
    text = os.environ.get(VARIABLE)
    return None if text is None else Assignment.from_json(text)


def exit_with_parent(parent: int) -> None:
    """Ends this process as soon as its parent has ended: the next start of the run trains it again."""
    when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGKILL), parent)


def has_process_group() -> bool:
    """Whether this process is one of several ranks that still hold a connection."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def exit_now() -> NoReturn:
    """Ends a rank that has done its work without Python's shutdown, in which threads of the process group abort now and
    then once other ranks are gone."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def under_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def external_rank(settings: TrainerConfig) -> int | None:
    """The number of this rank where torchrun or Slurm has started all of them, else `None`.

    Raises:
        UserError: there are more or fewer ranks than the config asks for.
    """
    wanted = settings.world_size
    if under_torchrun():
        count, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
        if wanted == count == 1:
            return None
    elif wanted == 1:
        return None
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        count, rank = _join_slurm()
    else:
        if settings.num_nodes > 1:
            raise UserError("expected torchrun or srun to start the ranks of several machines (trainer.num_nodes > 1)")
        return None
    if count != wanted:
        raise UserError(f"expected {wanted} ranks (trainer.devices × trainer.num_nodes), got {count}")
    return rank


def _join_slurm() -> tuple[int, int]:
    """The number of Slurm's tasks and of this one; sets the environment variables of a rendezvous."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    try:
        slurm = SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise UserError(f"expected tasks of Slurm that can be ranks: {error}") from error
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
    os.environ["WORLD_SIZE"], os.environ["RANK"] = str(slurm.world_size()), str(slurm.global_rank())
    os.environ["LOCAL_RANK"] = str(slurm.local_rank())
    return slurm.world_size(), slurm.global_rank()


@cache
def _rendezvous_store() -> Any:
    """The store of torch's rendezvous; kept, since rank 0 serves it as long as the object exists."""
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://"))
    return store


def send_assignment(run_id: str, assignment: Assignment) -> None:
    """Sends rank 0's assignment to the other ranks of torchrun or Slurm, which wait for it.

    Where there is nothing to train it waits until all have read it, since this process serves the store and then ends.
    """
    store = _rendezvous_store()
    store.set(f"emorec/{run_id}", assignment.to_json())
    if not assignment.trains:
        others = range(1, int(os.environ["WORLD_SIZE"]))
        try:
            store.wait([f"emorec/{run_id}/{rank}" for rank in others], timedelta(seconds=ACKNOWLEDGE_SECONDS))
        except RuntimeError as error:
            log.warning("some ranks did not read that there is nothing to train: %s", error)


def receive_assignment(run_id: str) -> Assignment:
    """Waits for the assignment of rank 0 of torchrun or Slurm."""
    store = _rendezvous_store()
    store.wait([f"emorec/{run_id}"], timedelta(days=7))
    assignment = Assignment.from_json(store.get(f"emorec/{run_id}").decode())
    store.set(f"emorec/{run_id}/{os.environ['RANK']}", "read")
    return assignment


def launch_ranks(composed: Composed[TrainConfig], assignment: Assignment, *, owned: Callable[[], bool]) -> int:
    """Starts the ranks of a run and waits for them; when one fails, or the run is not `owned` any more, all are ended.

    Returns:
        The exit code of the first rank that failed, or 0.

    Raises:
        RunTakenOverError: another process has taken the run over.
        Preempted: a signal asked this process to end; the ranks have saved.
    """
    release_memory()  # of the GPU on which features were computed: rank 0 uses it now
    count = composed.config.trainer.devices
    composed = composed.in_sweep(composed.config.sweep.name)
    environment = {
        **os.environ,
        VARIABLE: replace(assignment, parent=os.getpid()).to_json(),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(count),
        "NODE_RANK": "0",
    }
    numbers = [{"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(count)]
    ranks = [start_child(composed.arguments, {**environment, **own}, Handover(composed)) for own in numbers]
    try:
        return _wait(ranks, owned)
    except (Preempted, KeyboardInterrupt) as stopped:
        end_children(ranks, signal.SIGTERM if isinstance(stopped, Preempted) else signal.SIGINT, GRACE_SECONDS)
        raise
    finally:
        end_children(ranks, signal.SIGTERM, grace=0.0)


def _free_port() -> int:
    """A port that nothing listens on, outside the range from which the system gives out ports."""
    while True:
        port = random.SystemRandom().randint(*PORTS)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def _wait(ranks: Sequence[Child], owned: Callable[[], bool]) -> int:
    while True:
        if not owned():
            raise RunTakenOverError
        codes = [rank.poll() for rank in ranks]
        failed = [code for code in codes if code]
        if failed:
            log.warning("one of %d ranks ended with exit code %d: the others are ended", len(ranks), failed[0])
            return int(failed[0])
        if all(code == 0 for code in codes):
            return 0
        time.sleep(POLL_SECONDS)


def cluster_environment(ranks: int) -> Any:
    """Lightning's plugin for the ranks, also inside an allocation of Slurm."""
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if ranks == 1 or VARIABLE in os.environ:
        return LightningEnvironment()
    return TorchElasticEnvironment() if under_torchrun() else SLURMEnvironment(auto_requeue=False)
