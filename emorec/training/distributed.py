"""The ranks of a run on several devices: processes of our own, or those of torchrun and Slurm.

Lightning never starts processes here: its way replays the whole command line, a multirun and all.
"""

import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any, NoReturn

from emorec.config.composition import Composed
from emorec.errors import Preempted, UserError
from emorec.features.devices import give_memory_back
from emorec.sweeps.process import train_command

log = logging.getLogger(__name__)

VARIABLE = "EMOREC_RANK"  # holds an `Order` in the ranks that emorec starts
GRACE_SECONDS = 20.0  # between the request to end and the kill
POLL_SECONDS = 0.1
PORTS = (20_000, 32_000)
HEARD_SECONDS = 60.0  # in which all ranks are to hear that there is nothing to do
LEADER_SECONDS = 0.5  # between two looks for the process that leads the run


@dataclass(frozen=True)
class Order:
    """What the process that leads a run tells its ranks.

    Attributes:
        trains: false where the run needs no training.
        state: path of the state to go on from.
        leader: the process that leads, where it has started the ranks.
    """

    trains: bool
    state: str | None = None
    leader: int | None = None

    def written(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def read(text: str) -> "Order":
        return Order(**json.loads(text))


def own_order() -> Order | None:
    """The order of a rank that emorec has started; `None` in any other process."""
    text = os.environ.get(VARIABLE)
    return None if text is None else Order.read(text)


def follow_leader(leader: int) -> None:
    """Ends this process at once when the one that started it is gone: whoever leads the run next trains it anew."""

    def watch() -> None:
        while os.getppid() == leader:
            time.sleep(LEADER_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="leader", daemon=True).start()


def leave() -> NoReturn:
    """Ends a rank that has done its work at once: while Python shuts down, threads of the process group, whose other
    ranks may be gone by now, abort it now and then."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def world_size(config: Mapping[str, Any]) -> int:
    """How many ranks a config asks for."""
    trainer = config["trainer"]
    return int(trainer["devices"]) * int(trainer["num_nodes"])


def under_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def outer_rank(config: Mapping[str, Any]) -> int | None:
    """The number of this rank where torchrun or Slurm has started all of them; `None` where nobody has.

    Raises:
        UserError: there are more or fewer ranks than the config asks for.
    """
    wanted = world_size(config)
    if under_torchrun():
        found, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
        if wanted == found == 1:
            return None
    elif wanted == 1:
        return None
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        found, rank = _join_slurm()
    else:
        if config["trainer"]["num_nodes"] > 1:
            raise UserError("expected torchrun or srun to start the ranks of several machines (trainer.num_nodes > 1)")
        return None
    if found != wanted:
        raise UserError(f"expected {wanted} ranks (trainer.devices × trainer.num_nodes), found {found} started")
    return rank


def _join_slurm() -> tuple[int, int]:
    """The number of Slurm's tasks and of this one; says in the environment where they meet."""
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
def _store() -> Any:
    """Where the ranks meet; kept, for rank 0 serves it as long as it is there."""
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://"))
    return store


def tell_ranks(run_id: str, order: Order) -> None:
    """Tells the other ranks of torchrun or Slurm what to do; they wait for it. What ends them waits until it is heard,
    for this process, which may serve the store, ends as well."""
    store = _store()
    store.set(f"emorec/{run_id}", order.written())
    if not order.trains:
        others = range(1, int(os.environ["WORLD_SIZE"]))
        try:
            store.wait([f"emorec/{run_id}/{rank}" for rank in others], timedelta(seconds=HEARD_SECONDS))
        except RuntimeError as error:
            log.warning("not all ranks have heard that there is nothing to train: %s", error)


def hear_order(run_id: str) -> Order:
    """What rank 0 of torchrun or Slurm tells; waits for it."""
    store = _store()
    store.wait([f"emorec/{run_id}"], timedelta(days=7))
    order = Order.read(store.get(f"emorec/{run_id}").decode())
    store.set(f"emorec/{run_id}/{os.environ['RANK']}", "heard")
    return order


def run_ranks(composed: Composed, order: Order) -> int:
    """Starts the ranks of a run and waits for them; when one fails, all end. Returns the exit code of the first that
    failed, or 0.

    Raises:
        Preempted: a signal asked this process to end; the ranks have saved.
    """
    give_memory_back()  # of the GPU on which features were computed: it is rank 0's now
    count = int(composed.config["trainer"]["devices"])
    port = _free_port()
    ranks = [_start(composed, order, number, count, port) for number in range(count)]
    try:
        return _watch(ranks)
    except (Preempted, KeyboardInterrupt) as stopped:
        _end(ranks, signal.SIGTERM if isinstance(stopped, Preempted) else signal.SIGINT)
        raise
    finally:
        _end(ranks, signal.SIGTERM, grace=0.0)


def _start(composed: Composed, order: Order, number: int, count: int, port: int) -> subprocess.Popen[bytes]:
    flags = [] if composed.config_dir is None else ["--config-dir", composed.config_dir]
    environment = {
        **os.environ,
        VARIABLE: replace(order, leader=os.getpid()).written(),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "NODE_RANK": "0",
        "RANK": str(number),
        "LOCAL_RANK": str(number),
    }
    words = train_command(composed.overrides, flags=flags, sweep=str(composed.config["sweep"]["name"]))
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)


def _free_port() -> int:
    """One that nothing listens on, of those that the system gives to nobody who has not asked for it."""
    while True:
        port = random.SystemRandom().randint(*PORTS)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def _watch(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [rank.poll() for rank in ranks]
        failed = [code for code in codes if code]
        if failed:
            log.warning("a rank of %d ended with exit code %d: the others are ended", len(ranks), failed[0])
            return int(failed[0])
        if all(code == 0 for code in codes):
            return 0
        time.sleep(POLL_SECONDS)


def _end(ranks: Sequence[subprocess.Popen[bytes]], number: signal.Signals, grace: float = GRACE_SECONDS) -> None:
    """Asks all ranks that are left to end, and after a while kills them."""
    left = [rank for rank in ranks if rank.poll() is None]
    for rank in left:
        rank.send_signal(number)
    end = time.monotonic() + grace
    for rank in left:
        try:
            rank.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()


def cluster_environment(ranks: int) -> Any:
    """Lightning's plugin for the ranks that are there, whatever allocation of Slurm's this may be within."""
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if ranks == 1 or VARIABLE in os.environ:
        return LightningEnvironment()
    return TorchElasticEnvironment() if under_torchrun() else SLURMEnvironment(auto_requeue=False)
