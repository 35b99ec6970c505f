"""Tests emorec with the newest torch and without torchaudio.

Run as `python -m tests.newest_torch [REQUIREMENT]`. A temporary environment gets the newest torch that pip finds, or
the one that the requirement names, such as `torch==2.14.*`. Its other packages are links to those of this environment.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from importlib.metadata import distributions
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LEFT_OUT = "torchaudio"
TESTS = [f"tests/media/test_{name}.py" for name in ("signal", "audio", "conditioning", "augmentation")]
COMMANDS = (
    ["pytest", "-p", "no:cacheprovider", *TESTS],
    ["emorec", "train", "experiment=smoke", "encoder/audio=log_mel", "encoder.audio.views=1", "logger=csv"],
    ["emorec", "train", "experiment=smoke", "encoder/audio=mfcc_chroma_functionals", "logger=csv"],
)
VERSIONS = """
import importlib.util, torch
assert importlib.util.find_spec("torchaudio") is None
from emorec.media.signal import uses_torchaudio
assert not uses_torchaudio()
print(f"torch {torch.__version__}, no torchaudio", flush=True)
"""


def name_of(entry: Path) -> str:
    """The distribution of a `*.dist-info` folder, or the name of a package or module."""
    return entry.name.partition("-")[0].lower() if entry.suffix == ".dist-info" else entry.name


def link_packages(source: Path, target: Path) -> None:
    """Links everything that one `site-packages` folder has and another does not, except torchaudio."""
    installed = {name_of(entry) for entry in target.iterdir()}
    for entry in source.iterdir():
        if name_of(entry) not in installed and not entry.name.startswith((LEFT_OUT, "__pycache__")):
            (target / entry.name).symlink_to(entry)


def make_environment(folder: Path, requirement: str) -> Path:
    """Makes the environment, and returns its Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement], check=True)
    target = next(folder.glob("[Ll]ib/**/site-packages"))
    link_packages(Path(sysconfig.get_path("purelib")), target)
    assert LEFT_OUT not in {item.name.lower() for item in distributions(path=[str(target)])}
    return python


def main() -> int:
    requirement = sys.argv[1] if len(sys.argv) > 1 else "torch"
    with tempfile.TemporaryDirectory() as folder:
        python = make_environment(Path(folder, "environment"), requirement)
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "EMOREC_ROOT": str(Path(folder, "root"))}
        for command in (["-c", VERSIONS], *(["-m", *command] for command in COMMANDS)):
            code = subprocess.run([python, *command], cwd=REPOSITORY, env=environment, check=False).returncode
            if code:
                print(f"failed with exit code {code}: {' '.join(command)}", file=sys.stderr)
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
