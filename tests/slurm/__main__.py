"""`make test-slurm`, as root on Debian or Ubuntu: installs Slurm, starts it on this machine, runs sweeps, stops it.

Neither accounting nor control groups are needed. Slurm and munge are configured in a temporary folder; nothing of
the machine's own Slurm is touched, so the packages are all that stays.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emorec.datasets.demo import VERSION, make_corpus

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = {"munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm"}
TIMEOUT = 300.0  # seconds for a sweep, on a machine of two cores
CONFIGURATION = """
ClusterName=one_machine
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=20
MinJobAge=20
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def install() -> None:
    """Installs what is missing."""
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update"], check=True, env=environment)
        words = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
        subprocess.run(words, check=True, env=environment)


def wait_for(condition: Callable[[], object], what: str, seconds: float = TIMEOUT) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"expected {what} within {seconds:.0f} s")
        time.sleep(0.2)


def answer(*words: str) -> str:
    """What a program prints; nothing where it fails."""
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """A Slurm cluster of this machine while the block runs."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    settings = folder / "slurm.conf"
    settings.write_text(CONFIGURATION.format(host=socket.gethostname(), folder=folder, cores=os.cpu_count()))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # is read, but nothing uses it
    os.environ["SLURM_CONF"] = str(settings)
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder / 'munge.socket'}"]
    munge += [f"--{name}-file={folder / f'munge.{name}'}" for name in ("pid", "log", "seed")]
    commands = (munge, ["slurmctld", "-D", "-i"], ["slurmd", "-D"])
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        with (folder / "daemons.txt").open("wb") as output:
            for command in commands:
                daemons.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))
                time.sleep(1.0)
        wait_for(lambda: answer("sinfo", "--noheader", "--format=%t") == "idle", "an idle node", 60.0)
        yield
    except BaseException:
        for path in sorted([*folder.glob("*.log"), *folder.glob("*.txt")]):
            print(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}", file=sys.stderr)
        raise
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def start(root: Path, *words: str) -> subprocess.Popen[str]:
    """Starts `emorec train -m launcher=slurm`."""
    environment = {**os.environ, "EMOREC_ROOT": str(root), "PYTHONPATH": str(REPOSITORY)}
    quick = ["encoder/audio=none", "encoder/video=none", "model.hidden=8", "dataset.limit=24"]
    launcher = ["launcher=slurm", "launcher.gpus=0", "launcher.cpus_per_task=1", "launcher.time_minutes=10"]
    command = [sys.executable, "-m", "emorec", "train", "-m", *quick, *launcher, f"dataset.root={root / 'demo'}"]
    return subprocess.Popen([*command, *words], cwd=root, env=environment, text=True)


def newest_sweep(root: Path) -> dict[str, Any]:
    """The record of the sweep that was started last."""
    sweeps = [json.loads(path.read_text()) for path in root.glob("checkpoints/sweeps/*/sweep.json")]
    return max(sweeps, key=lambda sweep: str(sweep["started"]), default={"jobs": []})


def statuses(root: Path) -> list[str]:
    """Of the jobs of the sweep that was started last."""
    return [job["status"] for job in newest_sweep(root)["jobs"]]


def attempts(root: Path) -> list[int]:
    """How often each of the runs that were started more than once was started."""
    records = [json.loads(path.read_text()) for path in root.glob("checkpoints/*/run.json")]
    return sorted(record["attempts"] for record in records if record["attempts"] > 1)


def expect(holds: bool, what: str, root: Path) -> None:
    """Ends the check where something does not hold."""
    if not holds:
        raise SystemExit(f"expected {what}, got {json.dumps(newest_sweep(root), indent=2)}")
    print(f"ok: {what}")


def check(root: Path) -> None:
    """Runs sweeps: one to its end, one that is stopped and goes on, one whose job is cancelled by hand."""
    make_corpus(root / "demo" / f"version_{VERSION}", clips_per_speaker=4)
    code = start(root, "trainer.max_epochs=1", "seed=0,1,2").wait(TIMEOUT)
    expect(code == 0 and statuses(root) == ["finished"] * 3, "three jobs to finish", root)

    code = start(root, "trainer.max_epochs=1", "trainer.devices=2", "trainer.accelerator=cpu").wait(TIMEOUT)
    expect(code == 0 and statuses(root) == ["finished"], "the two tasks of a job to be the ranks of one run", root)

    long = ["trainer.max_epochs=400", "trainer.patience=null", "checkpoint.every_seconds=0", "seed=3,4"]
    process = start(root, *long)
    wait_for(lambda: list(root.glob("checkpoints/*/resume/*-*.ckpt")), "a state to resume from")
    process.send_signal(signal.SIGINT)
    code = process.wait(TIMEOUT)
    expect(code == 130 and "interrupted" in statuses(root), "ctrl-C to interrupt the jobs", root)
    wait_for(lambda: not answer("squeue", "--noheader"), "an empty queue", 60.0)

    process = start(root, *long)
    wait_for(lambda: statuses(root) == ["running"] * 2, "two jobs to run")
    wait_for(lambda: attempts(root) == [2, 2], "two runs to be started again")
    time.sleep(5.0)
    first = answer("squeue", "--array", "--noheader", "--format=%i").split()[0]
    answer("scancel", "--signal=USR2", first)  # as Slurm does before a job's time is over
    code = process.wait(TIMEOUT)
    expect(code == 0 and statuses(root) == ["finished"] * 2, "the same command to go on with them", root)
    expect(attempts(root) == [2, 3], "a preempted job to be queued again by Slurm and to go on", root)

    process = start(root, "trainer.max_epochs=100000", "trainer.patience=null", "seed=5,6")
    wait_for(lambda: statuses(root) == ["running"] * 2, "two jobs to run")
    first = answer("squeue", "--array", "--noheader", "--format=%i").split()[0]
    answer("scancel", "--signal=KILL", first)
    # its training may outlive the task that Slurm kills for a moment, and saves then
    wait_for(lambda: {"failed", "interrupted"} & set(statuses(root)), "the killed job to be noticed", 120.0)
    expect("running" in statuses(root), "the other job to run on", root)
    process.send_signal(signal.SIGTERM)
    code = process.wait(TIMEOUT)
    expect(code == 75 and statuses(root)[1] == "interrupted", "a killed job to end alone", root)


def run() -> int:
    """Runs the check; returns the exit code."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print("expected to be root on Debian or Ubuntu, for Slurm is installed and started here", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of stopping what was started
    install()
    with tempfile.TemporaryDirectory(prefix="emorec-slurm-") as name:
        folder = Path(name)
        with cluster(folder):
            (folder / "root").mkdir()
            check(folder / "root")
    print("launcher=slurm works")
    return 0


if __name__ == "__main__":
    sys.exit(run())
