"""The provenance of a run: code, versions, machine."""

import platform
import socket
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import emorec
from emorec.storage.digests import digest_of, hash_file

LIBRARIES = ("torch", "torchaudio", "lightning", "transformers", "safetensors", "numpy", "opensmile", "av", "decord")


@lru_cache(maxsize=1)
def source_digest() -> str:
    """sha256 over emorec's own Python files, 64 hex digits."""
    package = Path(emorec.__file__).parent
    return digest_of({str(path.relative_to(package)): hash_file(path) for path in sorted(package.rglob("*.py"))})


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def _git_commit() -> str | None:
    """The git commit of emorec's checkout, with "+changes" if files differ from it; `None` outside a checkout."""
    folder = Path(emorec.__file__).parent.parent

    def git(*arguments: str) -> str | None:
        try:
            result = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "emorec/__init__.py") is None:
        return None
    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return None if commit is None else commit + ("+changes" if changes else "")


def provenance() -> dict[str, Any]:
    """Versions, git commit, digest of the source, machine and command of this process."""
    return {
        "emorec": emorec.__version__,
        "source": source_digest(),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "command": sys.argv,
        "libraries": {name: version for name in LIBRARIES if (version := _version(name)) is not None},
    }
