"""All computations work on another device than the CPU: on one that a machine without a GPU can have."""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


def test_encoders_models_and_training_work_on_a_device_that_is_not_the_cpu() -> None:
    folders = ("augmentation", "encoders", "datamodules", "models", "training")
    checks = [f"tests/{folder}/check_other_device.py" for folder in folders]
    process = subprocess.run(  # a device of torch's is registered for good
        [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", *checks],
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # the other core has tests of its own
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout[-6000:]
    assert " passed" in process.stdout
