"""Prediction of a user's own files: its speed against that of a corpus, and its memory."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from emorec.datasets.demo import VERSION, make_corpus
from tests.benchmarks.figure import Figure, emorec, interleaved, seconds
from tests.benchmarks.memory import control_group

TRAINED_ON, CLIPS_PER_SPEAKER = 4, 129  # of eight speakers; the first are not among those that are predicted
FILES, MEMORY = 5000, 1_500_000_000  # bytes
RATE, WINDOW = 16_000, ["window=3", "hop=1"]
# prints the most memory that a prediction has taken, in kB
PEAK = (
    "import resource, sys; from emorec.cli import main; code = main(sys.argv[1:]); "
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
)


def prediction(root: Path) -> list[Figure]:
    """The figures of `emorec predict`, with a run on all modalities of the demo corpus."""
    environment = {**os.environ, "EMOREC_ROOT": str(root / "emorec")}
    make_corpus(root / "small" / f"version_{VERSION}", clips_per_speaker=TRAINED_ON)
    emorec("train", f"dataset.root={root / 'small'}", "trainer.max_epochs=1", "progress=false", env=environment)
    (run,) = (path.parent.name for path in (root / "emorec/checkpoints").glob("*/run.json"))
    make_corpus(root / "corpus", clips_per_speaker=CLIPS_PER_SPEAKER)
    clips, table = _clips(root / "corpus", root / "clips")
    return [
        _speed(root, run, clips, table, environment),
        _memory(root, run, clips, environment),
        _long_recording(root, run, environment),
    ]


def _clips(corpus: Path, folder: Path) -> tuple[Path, Path]:
    """A folder of 1,000 clips and their transcripts, and the table of the corpus that they are."""
    folder.mkdir()
    table = folder.with_suffix(".csv")
    rows = [["id", "audio", "video", "text", "label"]]
    with (corpus / "utterances.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            name = row["id"]
            if int(name[-2:] if name[-3] == "_" else name[-3:]) < TRAINED_ON:
                continue
            (folder / f"{name}.txt").write_text(row["text"])
            for suffix, kind in ((".flac", "audio"), (".mp4", "video")):
                os.link(corpus / kind / f"{name}{suffix}", folder / f"{name}{suffix}")
            files = [str(folder / f"{name}{suffix}") for suffix in (".flac", ".mp4")]
            rows.append([name, *files, row["text"], row["emotion"]])
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder, table


def _speed(root: Path, run: str, clips: Path, table: Path, environment: dict[str, str]) -> Figure:
    """Predicting 1,000 clips against extracting and evaluating them as a corpus, each from a cold start."""
    predict = ["predict", f"run={run}", f"input={clips}", f"output={root / 'result.csv'}"]
    evaluate = ["evaluate", f"run={run}", "split=all", "dataset=custom", f"dataset.table={table}"]

    def of(*words: str) -> float:
        shutil.rmtree(root / "emorec/cache", ignore_errors=True)
        return seconds(lambda: emorec(*words, "progress=false", env=environment))

    own, corpus = interleaved(lambda: of(*predict), lambda: of(*evaluate), rounds=2)
    return Figure("predict_vs_extract", own / corpus, "ratio", "<= 1.1", f"{own:.1f} s against {corpus:.1f} s")


def _memory(root: Path, run: str, clips: Path, environment: dict[str, str]) -> Figure:
    """Files of all modalities that are predicted by processes which together may not take more than a limit."""
    name, goal = "predict_under_limit", f">= {FILES}"
    many = root / "many"
    many.mkdir()
    for number, path in enumerate(sorted(clips.glob("*.flac")) * (FILES // 1000)):
        for suffix in (".flac", ".mp4", ".txt"):
            os.link(path.with_suffix(suffix), many / f"{number:05d}{suffix}")
    created = control_group(f"emorec_predict_{os.getpid()}", MEMORY)
    if created is None:
        return Figure(name, None, "files", goal, "control groups cannot be created here")
    group, join = created
    try:
        words = ["predict", f"run={run}", f"input={many}", f"output={root / 'many.csv'}", "progress=false"]
        command = [sys.executable, "-m", "emorec", *words]
        done = subprocess.run(command, env=environment, preexec_fn=join, capture_output=True, text=True, check=False)
    finally:
        group.rmdir()
    rows = len((root / "many.csv").read_text().splitlines()) - 1 if done.returncode == 0 else 0
    return Figure(name, rows, "files", goal, f"under {MEMORY / 1e9:.1f} GB, exit code {done.returncode}")


def _long_recording(root: Path, run: str, environment: dict[str, str]) -> Figure:
    """The memory of an hour in windows against that of ten minutes."""
    sound = np.random.default_rng(0).normal(0, 0.1, 3600 * RATE).astype(np.float32)
    peaks = []
    for minutes in (60, 10):
        path = root / f"recording{minutes}.wav"
        soundfile.write(path, sound[: minutes * 60 * RATE], RATE)
        words = ["predict", f"run={run}", f"input={path}", f"output={root / 'windows.csv'}", *WINDOW, "progress=false"]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *words], env=environment, capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout.split()[-1]))
    note = f"{peaks[0] / 1e6:.2f} GB against {peaks[1] / 1e6:.2f} GB"
    return Figure("predict_hour_vs_minutes", peaks[0] / peaks[1], "ratio", "<= 1.1", note)
