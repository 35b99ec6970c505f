"""`emorec extract`: computes the features of a corpus, and nothing else."""

from collections.abc import Sequence
from pathlib import Path

from emorec.config.composition import compose_once
from emorec.runs.logs import start_logging


def main(words: Sequence[str]) -> int:
    """Extracts, and prints a line a modality."""
    composed = compose_once("extract", words)
    if composed is None:
        return 0
    start_logging()
    from emorec.datamodules.preparer import workbench_for

    cache = Path(composed.config["paths"]["cache"])
    data = workbench_for(composed.config).data(composed.config)
    for modality, features in data.features.items():
        report = features.report
        counts = f"{report.found} found, {report.computed} computed, {len(report.bad)} bad"
        print(f"{modality}: {counts}  {cache / features.spec.folder_name}")
    return 0
