"""The wheel, in an environment that knows nothing of the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_carries_every_config(wheel: Path) -> None:
    carried = {name.removeprefix("emorec/conf/") for name in zipfile.ZipFile(wheel).namelist() if "/conf/" in name}
    conf = REPOSITORY / "conf"
    assert carried == {str(path.relative_to(conf)) for path in conf.rglob("*.yaml")}


def test_the_wheel_carries_the_style_and_the_script_of_the_page(wheel: Path) -> None:
    assert {"emorec/reporting/page.css", "emorec/reporting/page.js"} <= set(zipfile.ZipFile(wheel).namelist())


def test_an_installed_wheel_finds_its_configs_from_any_folder(wheel: Path, tmp_path: Path, small_demo: Path) -> None:
    venv.create(tmp_path / "environment", with_pip=False)
    python = tmp_path / "environment" / "bin" / "python"
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", *options, wheel], check=True)
    # The dependencies are taken from this environment; a plain path does not bring its editable installs along.
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "EMOREC_ROOT")}
    (tmp_path / "work").mkdir()

    def emorec(*words: str) -> str:
        done = subprocess.run(
            [python.parent / "emorec", *words],
            cwd=tmp_path / "work",
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    where = subprocess.run(
        [python, "-c", "import emorec; print(emorec.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert where.stdout.startswith(str(tmp_path))
    printed = emorec("train", "--cfg", "job", "--resolve")
    assert f"cache: {tmp_path / 'work'}/cache" in printed
    words = [f"dataset.root={small_demo}", "trainer.max_epochs=1", "encoder/video=none"]
    assert "test/uar=" in emorec("train", *words)
    assert (tmp_path / "work" / "checkpoints").is_dir()
