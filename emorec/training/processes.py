"""Processes that train: started afresh, or forked from a warm parent.

The warm parent is Python's fork server: a process that has imported what a run needs and nothing more. It has one
thread, and no device, store or logger is open in it, so that forking it is safe. A process forked from it starts in
milliseconds where a fresh interpreter imports for seconds. The server ends with the process that started it; processes
that are forked from it use the same server for their own.
"""

import contextlib
import importlib
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver, reduction
from pathlib import Path
from typing import IO, Any, Literal

from emorec.config.composition import Composed
from emorec.config.locations import PACKAGE
from emorec.config.schema import TrainConfig
from emorec.errors import first_line
from emorec.machine import ONE_THREAD

Start = Literal["auto", "fork", "spawn"]
SAFE_PATH = "PYTHONSAFEPATH"  # as `-P`: Python imports nothing from its working directory
WATCH_SECONDS = 0.5  # between two looks at a parent process
STARTS = 4  # attempts to fork a process

log = logging.getLogger(__name__)


def fresh_command(arguments: Sequence[str]) -> list[str]:
    """The command of a fresh process; nothing is imported from its working directory (`-P`)."""
    return [sys.executable, "-P", "-m", "emorec", *arguments]


def forks(start: Start = "auto") -> bool:
    """Whether processes are forked: by default on Linux where there is no GPU, for a device does not survive a fork."""
    if start != "auto":
        return start == "fork"
    if not sys.platform.startswith("linux"):
        return False
    import torch

    return torch.cuda.device_count() == 0


def start_warm_parent() -> None:
    """Starts the fork server without waiting for its imports. A forked process uses the server that it came from."""
    if multiprocessing.parent_process() is not None:
        return
    variables = {**ONE_THREAD, SAFE_PATH: "1"}  # no threads of libraries, no modules of the working directory
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        multiprocessing.set_forkserver_preload(["emorec.training.preload"])
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@dataclass(frozen=True)
class Handover:
    """What the process that starts a run has found out, and a process that is forked for the run need not again."""

    composed: Composed[TrainConfig]
    manifests: bytes = pickle.dumps({})  # pickled `manifests` of a `DataPreparer`: sent at once, whatever their number


class _Descriptor:
    """An open file that is passed to a forked process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return _receive, (reduction.DupFd(self.number),)


def _receive(duplicate: Any) -> _Descriptor:
    return _Descriptor(duplicate.detach())


class ForkedProcess:
    """`emorec <arguments>` in a process forked from the warm parent; offers what is needed of `subprocess.Popen`.

    Args:
        arguments: of the command line.
        handover: of the run that these arguments name, if it is known.
        environment: the whole environment.
        stdout: open file.
        stderr: open file.
        new_session: whether it is the leader of a process group of its own.
        folder: its working directory; by default that of this process.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        stdout: IO[bytes] | int,
        stderr: IO[bytes] | int,
        new_session: bool = False,
        folder: Path | None = None,
        handover: Handover | None = None,
    ) -> None:
        streams = [_Descriptor(item if isinstance(item, int) else item.fileno()) for item in (stdout, stderr)]
        call = (list(arguments), dict(environment), str(folder or Path.cwd()), streams, new_session, handover)
        for attempt in range(1, STARTS + 1):
            start_warm_parent()
            self._process = multiprocessing.get_context("forkserver").Process(target=_work, args=call)
            try:
                with _without_main(), _without_working_directory():
                    self._process.start()
                break
            except (OSError, EOFError) as error:  # the warm parent was killed meanwhile; its child ends without it
                if attempt == STARTS:
                    raise
                log.warning("the process that jobs are forked from has ended (%s): starting another", first_line(error))
                time.sleep(WATCH_SECONDS)
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; `None` while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, when it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs longer than `timeout` seconds.
        """
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired("emorec", timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal to the process, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills the process."""
        self.send_signal(signal.SIGKILL)


Child = ForkedProcess | subprocess.Popen[bytes]


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """The child need not run the script that is `__main__` here."""
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    for name in hidden:
        delattr(main, name)
    main.__spec__ = None
    try:
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)


@contextlib.contextmanager
def _without_working_directory() -> Iterator[None]:
    """The child does not import from the working directory, which `python -m` and `python -c` put first."""
    kept = list(sys.path)
    if not sys.flags.safe_path and kept[:1] in ([""], [str(Path.cwd())]) and Path.cwd() != PACKAGE.parent:
        del sys.path[0]
    try:
        yield
    finally:
        sys.path[:] = kept


def _work(  # noqa: PLR0917
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    streams: list[_Descriptor],
    new_session: bool,
    handover: Handover | None,
) -> None:
    """What a forked process does: becomes like a fresh one, and runs the command."""
    import torch

    import emorec

    cli, train = map(importlib.import_module, ("emorec.cli", "emorec.commands.train"))  # layers above this one
    from emorec.training.preemption import ignore_signals
    from emorec.training.threads import thread_limit

    # Python means a forked process to use the server that it came from; its own check starts another one
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    if new_session:
        os.setsid()
    for target, stream in enumerate(streams, start=1):
        os.dup2(stream.number, target)
        os.close(stream.number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(thread_limit())  # what the variables said to the warm parent's libraries is past
    sys.argv = ["emorec", *arguments]
    emorec.STARTED = time.monotonic()
    action = partial(train.train_handed_over, handover)
    code = cli.main(arguments) if handover is None else cli.run_command("train", action)
    ignore_signals()
    sys.exit(code)


def start_child(arguments: Sequence[str], environment: Mapping[str, str], handover: Handover | None = None) -> Child:
    """Starts `emorec <arguments>` in the group of this process, with its log where this process logs and no output;
    `handover` as in `ForkedProcess`."""
    with Path(os.devnull).open("wb") as nowhere:
        if forks():
            return ForkedProcess(arguments, environment=environment, stdout=nowhere, stderr=2, handover=handover)
        return subprocess.Popen(fresh_command(arguments), env=environment, stdout=nowhere)


def end_children(children: Sequence[Child], number: int, grace: float) -> None:
    """Sends a signal to the children that still run, and kills those that run `grace` seconds later."""
    running = [child for child in children if child.poll() is None]
    for child in running:
        child.send_signal(number)
    deadline = time.monotonic() + grace
    for child in running:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def is_parent_alive(parent: int) -> bool:
    """Whether the process that started this one still runs.

    Args:
        parent: its process id, where it has started this process afresh.
    """
    starter = multiprocessing.parent_process()  # of a forked process
    return os.getppid() == parent if starter is None else starter.is_alive()


def when_parent_ends(action: Callable[[], None], parent: int) -> None:
    """Calls an action in a thread once the process that started this one has ended; see `is_parent_alive`."""

    def watch() -> None:
        while is_parent_alive(parent):
            time.sleep(WATCH_SECONDS)
        action()

    threading.Thread(target=watch, name="parent", daemon=True).start()
