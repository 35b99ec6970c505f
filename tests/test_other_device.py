"""All computations work on another device than the CPU: on one that a machine without a GPU can have."""

from contextlib import redirect_stdout
from pathlib import Path

import pytest
from torch.multiprocessing.spawn import ProcessException

from tests.conftest import REPOSITORY, run_ranks

pytestmark = pytest.mark.slow

FOLDERS = ("augmentation", "encoders", "datamodules", "models", "training")


def run_checks(rank: int, log: Path) -> None:
    """Runs the checks in this process, which ends with the exit code of pytest."""
    checks = [str(REPOSITORY / "tests" / folder / "check_other_device.py") for folder in FOLDERS]
    with log.open("w") as file, redirect_stdout(file):
        code = pytest.main(["-p", "no:xdist", "-p", "no:cacheprovider", f"--rootdir={REPOSITORY}", *checks])
    raise SystemExit(code)


def test_encoders_models_and_training_work_on_a_device_that_is_not_the_cpu(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    try:
        run_ranks(run_checks, log, ranks=1)  # a device of torch's is registered for good
    except ProcessException as error:
        pytest.fail(f"{error}\n{log.read_text()[-6000:]}")
    assert " passed" in log.read_text()
