"""`emorec extract` by several processes: local ones, those of a stand-in for Slurm, and two commands side by side."""

import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from emorec.cli import main
from emorec.config.command_line import parse
from emorec.features.maintenance import collect, spec_of
from emorec.features.store import FeatureStore
from emorec.storage.digests import FileDigests
from emorec.sweeps.extraction_processes import worker_arguments
from tests.conftest import emorec_process, processes_of
from tests.sweeps.journaled_encoder import Journaled

pytestmark = pytest.mark.slow

TIMEOUT = 600  # seconds after which a process is taken to hang
TEXTS = 160
TWO = ["launcher=local", "launcher.slots=2", "launcher.grace=10"]


@pytest.fixture
def root(empty_root: Path) -> Path:
    """Without features, so that what is written is seen."""
    return empty_root


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An extraction of texts by an encoder of a lab's own, which writes `journal`."""
    rows = [f"{number},text {number},{('sad', 'happy')[number % 2]},speaker{number // 8}" for number in range(TEXTS)]
    (tmp_path / "texts.csv").write_text("\n".join(["id,text,label,speaker", *rows]))
    (tmp_path / "conf" / "encoder" / "text").mkdir(parents=True)
    yaml = f"_target_: {Journaled.__module__}.{Journaled.__qualname__}\njournal: {tmp_path}/journal\n"
    yaml += "pause: 0.02\ntogether: 1\nfault: none\ntraining: frozen\ndtype: float32\n"
    (tmp_path / "conf" / "encoder" / "text" / "journaled.yaml").write_text(yaml)
    monkeypatch.setenv("EMOREC_TRUST", Journaled.__module__)
    chosen = ["encoder/text=journaled", "encoder/audio=none", "encoder/video=none"]
    chosen += ["dataset=custom", f"dataset.table={tmp_path}/texts.csv"]
    return ["extract", "--config-dir", str(tmp_path / "conf"), *chosen, "extraction.batch_size=4"]


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, out, err


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.05)


def journal(folder: Path) -> list[tuple[str, str]]:
    """(process, text) of each computation."""
    path = folder / "journal"
    pairs = [line.partition(" ") for line in path.read_text().splitlines()] if path.exists() else []
    return [(process, text) for process, _, text in pairs]


def entries(cache: Path) -> dict[bytes, bytes]:
    """{key: bytes of its values} of the only store."""
    (folder,) = cache.glob("*-*")
    spec = spec_of(folder)
    assert spec is not None
    shards = FeatureStore(cache, spec, FileDigests()).shards
    found = {}
    for shard in shards:
        for key, first, last in zip(shard.keys, shard.offsets[:-1], shard.offsets[1:], strict=True):
            found[key.tobytes()] = shard.values[first:last].tobytes()
    return found


def test_the_processes_get_the_flags_and_overrides_but_no_launcher() -> None:
    line = parse("extract", ["launcher=local", "--config-dir", "/lab", "dataset=meld", "+launcher.slots=4", "seed=1"])
    assert worker_arguments(line) == ["--config-dir", "/lab", "dataset=meld", "seed=1", "launcher=basic"]


@pytest.mark.parametrize(
    "launcher",
    [
        ["launcher=local", "launcher.slots=2", "launcher.start=fork"],
        ["launcher=local", "launcher.slots=2", "launcher.start=spawn"],
        ["launcher=slurm", "launcher.jobs=2", "launcher.cluster=local", "launcher.gpus=0"],
    ],
    ids=["two forked", "two fresh", "slurm"],
)
def test_several_processes_compute_each_source_once_and_the_same_bytes_as_one(
    root: Path, tmp_path: Path, words: list[str], launcher: list[str]
) -> None:
    if launcher[0] == "launcher=slurm":
        pytest.importorskip("submitit")
    code, out, err = finish(emorec_process(*words, *launcher, "encoder.text.together=2", root=root))
    assert code == 0, err
    computed = journal(tmp_path)
    counts = Counter(text for _, text in computed)
    assert set(counts.values()) == {1}
    assert len({process for process, _ in computed}) > 1
    (line,) = out.splitlines()
    assert re.match(r"text: 0 found, \d+ computed, 0 bad  ", line)
    assert list((root / "cache").glob("extractions/*")) == []
    shared = entries(root / "cache")
    wait_for(lambda: not processes_of(root))  # submitit's own processes end a moment later

    code, _, err = finish(emorec_process(*words, f"paths.cache={root}/alone", root=root))
    assert code == 0, err
    assert shared == entries(root / "alone")
    assert len(shared) == len(counts) == TEXTS


def test_nothing_is_started_where_nothing_is_missing(
    root: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "encoder.text.pause=0"]) == 0
    capsys.readouterr()
    assert main([*words, *TWO]) == 0
    found = capsys.readouterr()
    assert "0 computed, 0 bad" in found.out
    assert "share the work" not in found.err


@pytest.mark.parametrize(("fault", "message"), [("raise", "ValueError: boom"), ("overflow", "that float16 can hold")])
def test_the_error_of_one_process_ends_all_and_is_told_once(
    root: Path, words: list[str], fault: str, message: str
) -> None:
    words = [*words, *TWO, f"encoder.text.fault={fault}", "encoder.text.dtype=float16"]
    code, out, err = finish(emorec_process(*words, root=root))
    assert (code, out) == (2, "")
    (last,) = [line for line in err.splitlines() if line.startswith("emorec extract: ")]
    assert message in last
    assert "UserError" not in last
    (folder,) = (root / "cache").glob("extractions/*")
    assert str(folder) in last
    assert "Traceback" not in err
    assert processes_of(root) == []
    assert collect(root / "cache", act=True).removed == []
    assert folder.exists(), "logs are kept for some time"


def test_the_work_of_a_killed_process_is_done_by_the_other(root: Path, tmp_path: Path, words: list[str]) -> None:
    code, out, err = finish(emorec_process(*words, *TWO, "encoder.text.fault=kill", root=root))
    assert code == 0, err
    assert (tmp_path / "journal.killed").exists()
    assert "killed by signal 9 (SIGKILL); the others take its work over" in err
    assert len(entries(root / "cache")) == len({text for _, text in journal(tmp_path)})
    again = finish(emorec_process(*words, root=root))
    assert f"text: 0 found, {TEXTS} computed" in out
    assert f"text: {TEXTS} found, 0 computed" in again[1]


def start_slowly(root: Path, tmp_path: Path, words: list[str]) -> "subprocess.Popen[str]":
    """Starts an extraction by two processes, both of which then compute."""
    process = emorec_process(*words, *TWO, "encoder.text.pause=0.1", "extraction.workers=1", root=root)
    counts = Counter[str]()
    while process.poll() is None and (len(counts) < 2 or min(counts.values()) < 16):
        counts = Counter(worker for worker, _ in journal(tmp_path))
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    return process  # type: ignore[return-value]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_processes_end_with_the_command_that_started_them(
    root: Path, tmp_path: Path, words: list[str], number: signal.Signals, code: int
) -> None:
    process = start_slowly(root, tmp_path, words)
    process.send_signal(number)
    out = finish(process)
    assert out[0] == code, out[2]
    wait_for(lambda: not processes_of(root))
    before = len(journal(tmp_path))
    if number != signal.SIGKILL:
        assert "Traceback" not in out[2]
        assert list((root / "cache").glob("extractions/*")) == []
    code, _, err = finish(emorec_process(*words, root=root))
    assert code == 0, err
    found = re.search(r"text features: (\d+) found, (\d+) computed", err)
    assert found is not None
    assert len(journal(tmp_path)) - before == int(found[2])
    assert int(found[1]) > 0, "they write what they have, even if the command was killed"


def test_two_commands_side_by_side_share_the_work(root: Path, tmp_path: Path, words: list[str]) -> None:
    both = [emorec_process(*words, "encoder.text.together=2", root=root) for _ in range(2)]
    outcomes = [finish(process) for process in both]
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    computed = journal(tmp_path)
    assert set(Counter(text for _, text in computed).values()) == {1}
    assert len({process for process, _ in computed}) == 2
