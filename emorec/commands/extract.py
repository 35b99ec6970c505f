"""`emorec extract`: computes the features of a corpus, and nothing else."""

from collections.abc import Sequence

from emorec.config.composition import compose_once
from emorec.config.schema import ExtractConfig
from emorec.imports import quick_imports
from emorec.runs.logs import start_logging


def main(arguments: Sequence[str]) -> int:
    """Extracts, and prints a line for each modality."""
    composed = compose_once("extract", ExtractConfig, arguments)
    if composed is None:
        return 0
    start_logging()
    with quick_imports():
        config = composed.config
        from emorec.datamodules.preparer import DataPreparer

    preparer = DataPreparer.of(config)
    data = preparer.prepare(config, *preparer.components(config))
    for modality, features in data.features.items():
        report = features.report
        counts = f"{report.found} found, {report.computed} computed, {len(report.bad)} bad"
        print(f"{modality}: {counts}  {config.paths.cache / features.specs[0].folder_name}")
    return 0
