"""How long it takes until something happens."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.figure import Figure, emorec, interleaved, seconds
from tests.benchmarks.synthetic import Synthetic
from tests.benchmarks.training import FLAGS, HEAD

LARGE = [
    "dataset=synthetic",
    "dataset.files=true",
    "encoder/text=random",
    "encoder/audio=random",
    "encoder/video=random",
]
LARGE += ["dataset.train=10000", "dataset.val=1000", "dataset.test=2000", "trainer.max_epochs=1", "test=false"]
LARGE += [f"encoder.{modality}.dim=64" for modality in ("text", "audio", "video")]


def _process(*words: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - started


def cli_help(*, rounds: int = 9) -> Figure:
    """`emorec --help` against `python -c pass`."""
    own, peer = interleaved(lambda: _process("-m", "emorec", "--help"), lambda: _process("-c", "pass"), rounds=rounds)
    return Figure("cli_help_vs_python", own / peer, "ratio", "<= 6", f"{own * 1e3:.0f} ms against {peer * 1e3:.0f}")


def warm_run(root: Path, *, rounds: int = 5) -> Figure:
    """A run of one epoch with all features stored, against a process that only imports torch and Lightning."""
    environment = {**os.environ, "EMOREC_ROOT": str(root)}
    number = iter(range(5000, 6000))
    words = [*HEAD, "trainer.max_epochs=1"]
    own, peer = interleaved(
        lambda: seconds(lambda: emorec("train", *words, f"seed={next(number)}", *FLAGS, env=environment)),
        lambda: _process("-c", "import torch, lightning.pytorch"),
        rounds=rounds,
    )
    return Figure("warm_run_vs_imports", own / peer, "ratio", "<= 1.4", f"{own:.1f} s against {peer:.1f} s")


def warm_start(root: Path, *, rounds: int = 3) -> list[Figure]:
    """From the command to the first optimiser step on 13 000 utterances in three modalities, all features stored."""
    environment = {**os.environ, "EMOREC_ROOT": str(root)}
    corpus = Synthetic(root=str(root / "data" / "synthetic"), task="emotion", protocol="official")
    corpus.train, corpus.val, corpus.test, corpus.files = 10_000, 1000, 2000, True
    corpus.make_files()
    emorec("train", *LARGE, "seed=999", *FLAGS, env=environment)
    number = iter(range(1000))

    def ours() -> float:
        done = emorec("train", *LARGE, f"seed={next(number)}", *FLAGS, env=environment)
        record = json.loads((Path(done.stdout.split()[-1]) / "run.json").read_text())
        return float(record["timings"]["process_to_first_step"])

    own, imports = interleaved(ours, lambda: _process("-c", "import torch, lightning.pytorch"), rounds=rounds)
    files = sum(1 for folder in (root / "cache").iterdir() if folder.is_dir() for _ in folder.iterdir())
    note = f"{own:.1f} s, of which imports {imports:.1f}"
    return [
        Figure("warm_start_13k", own - imports, "s", "<= 10", note),
        Figure("files_13k", float(files), "files", "<= 200", "13 000 utterances in three modalities"),
    ]
