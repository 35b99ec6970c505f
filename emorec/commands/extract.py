"""`emorec extract`: computes the features of a corpus, and nothing else."""

from collections.abc import Sequence
from contextlib import closing, nullcontext

from emorec.config.command_line import parse
from emorec.config.composition import compose_once
from emorec.config.launchers import LocalLauncherConfig, SlurmLauncherConfig
from emorec.config.schema import ExtractConfig
from emorec.imports import quick_imports
from emorec.runs.logs import start_logging
from emorec.sweeps.report import reporting


def main(arguments: Sequence[str]) -> int:
    """Extracts, and prints a line for each modality."""
    composed = compose_once("extract", ExtractConfig, arguments)
    if composed is None:
        return 0
    start_logging()
    with reporting() as report:
        with quick_imports():
            config = composed.config
            from emorec.datamodules.preparer import DataPreparer
            from emorec.sweeps.extraction_processes import ExtractionProcesses

        preparer = DataPreparer.of(config)
        corpus, encoders = preparer.components(config)
        processes = None
        if isinstance(config.launcher, LocalLauncherConfig | SlurmLauncherConfig):
            line = parse("extract", arguments)
            processes = ExtractionProcesses(line, config.launcher, config, list(encoders.values()))
        with nullcontext() if processes is None else closing(processes):
            preparer.processes = processes
            data = preparer.prepare(config, corpus, encoders)
            if processes is not None:
                processes.finish()
        report.status = "finished"
    for modality, features in data.features.items():
        counts = features.report.counts
        print(f"{modality}: {counts}  {config.paths.cache / features.specs[0].folder_name}")
    return 0
