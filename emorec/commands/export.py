"""`emorec export`: writes a finished run as a folder that needs no emorec."""

from collections.abc import Sequence

from emorec.config.composition import compose_once
from emorec.config.schema import ExportConfig
from emorec.imports import quick_imports
from emorec.runs.logs import start_logging


def main(arguments: Sequence[str]) -> int:
    """Exports a run, and prints what was written and how close it is to the run."""
    composed = compose_once("export", ExportConfig, list(arguments))
    if composed is None:
        return 0
    start_logging()
    with quick_imports():
        config = composed.config
        from emorec.inference.export.exporting import export_run

    print(export_run(config))
    return 0
