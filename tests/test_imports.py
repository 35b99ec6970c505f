import gc
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from emorec.imports import quick_imports
from emorec.runs.checkpoint_store import CheckpointStore
from tests.conftest import environment
from tests.runs.test_checkpoint_store import record


def test_the_garbage_collector_is_off_in_the_block_alone() -> None:
    assert gc.isenabled()
    states = []
    with suppress(ImportError), quick_imports():
        states.append(gc.isenabled())
        raise ImportError
    assert [*states, gc.isenabled()] == [False, True]


def test_it_stays_off_for_who_has_turned_it_off() -> None:
    gc.disable()
    try:
        with quick_imports():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_only_what_the_first_block_leaves_is_never_collected() -> None:
    code = (
        "import gc\nfrom emorec.imports import quick_imports\n"
        "with quick_imports():\n    import json\n"
        "before = gc.get_freeze_count()\n"
        "with quick_imports():\n    kept = [[] for _ in range(1000)]\n"
        "print(before > 1000, gc.get_freeze_count() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "0"]


def test_looking_after_runs_and_features_loads_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "weights").mkdir(parents=True)
    CheckpointStore(tmp_path / "checkpoints").write(record("a" * 12))
    code = (
        "import sys\nfrom emorec.cli import main\n"
        "words = (['ls'], ['sweeps'], ['show', 'aaa'], ['verify'], ['gc'], ['sync', '--all'], ['export', 'aaa', 'out'],"
        " ['rm', 'aaa', '--yes'])\n"
        "codes = [main(['runs', *item]) for item in words]\n"
        "heavy = {'torch', 'numpy', 'lightning', 'pandas', 'pyarrow', 'matplotlib', 'wandb', 'safetensors', 'rich'}\n"
        "print(codes, sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
        "codes = [main(['cache', *item]) for item in (['ls'], ['verify'], ['gc', '--unused', '--yes'])]\n"
        "print(codes, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    options = {"env": environment(tmp_path), "cwd": tmp_path, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", code], check=True, **options)  # type: ignore[call-overload]
    assert done.stderr.splitlines()[-2:] == [f"{[0] * 8} []", "[0, 0, 0] ['numpy']"]
