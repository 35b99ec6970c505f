"""`python -m tests.benchmarks [name …]`: measures, prints a line a figure, writes benchmarks.json."""

import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ["EMOREC_TRUST"] = "tests.benchmarks"

from tests.benchmarks import (
    augmentation,
    decoding,
    export,
    extraction,
    features,
    finetuning,
    joining,
    memory,
    prediction,
    reports,
    sharing,
    sound,
    startup,
    statistics,
    training,
)
from tests.benchmarks.figure import Figure, machine, write


def main(names: list[str]) -> int:
    """Runs the benchmarks of these names, or all; returns 1 where a goal is missed."""
    logging.getLogger("emorec").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")
    root = Path(tempfile.mkdtemp(prefix="emorec_bench_"))
    os.environ["EMOREC_ROOT"] = str(root)
    benchmarks: dict[str, Callable[[], Figure | list[Figure]]] = {
        "cached_epoch_vs_raw_loop": lambda: training.cached_epoch(root, rounds=9, epochs=6),
        "dropout_vs_torch": training.dropout,
        "augmentation": augmentation.augmentation,
        "feature_gather_vs_memcpy": lambda: features.gather(root / "gather"),
        "extraction_vs_forward": lambda: extraction.extraction(root / "extraction"),
        "extraction_two_workers": lambda: sharing.two_workers(root / "sharing"),
        "decoding_process_vs_here": lambda: decoding.decoding_process(root / "decoding"),
        "whisper_clip_vs_padded": lambda: extraction.whisper_window(root / "whisper"),
        "segment_vs_whole_track": lambda: sound.segment_of_a_track(root / "sound"),
        "cut_vs_whole": lambda: finetuning.cut(root / "cut"),
        "finetune_vs_raw_loop": lambda: finetuning.finetuning(root),
        "context_epoch_vs_raw_loop": lambda: joining.context_epoch(root),
        "fusion": joining.fusions,
        "one_pass_vs_separate": lambda: joining.one_pass(root),
        "scratch_epoch_vs_raw_loop": lambda: finetuning.scratch(root),
        "sweeps": lambda: training.sweeps(root),
        "busy_neighbour": lambda: training.busy_neighbour(root),
        "cli_help_vs_python": startup.cli_help,
        "warm_run_vs_imports": lambda: startup.warm_run(root),
        "warm_start_13k": lambda: startup.warm_start(root / "large"),
        "index_open_1m": lambda: features.index_open(root / "index"),
        "prediction": lambda: prediction.prediction(root / "prediction"),
        "int8_size": export.int8_size,
        "onnx_vs_torch": export.onnx_vs_torch,
        "report_2000": lambda: reports.report(root / "reports"),
        "statistics": statistics.intervals_and_tests,
        "store_vs_memory_limit": lambda: memory.larger_than_memory(root / "memory"),
    }
    print(f"machine: {machine()}")
    figures: list[Figure] = []
    try:
        for name, benchmark in benchmarks.items():
            if not names or name in names:
                measured = benchmark()
                for figure in measured if isinstance(measured, list) else [measured]:
                    print(figure.line(), flush=True)
                    figures.append(figure)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    write(figures, Path("benchmarks.json"))
    return 1 if any(figure.holds is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
