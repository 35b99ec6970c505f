"""`emorec report`: compares finished runs."""

from collections.abc import Sequence
from pathlib import Path

from emorec.config.composition import compose_once
from emorec.config.schema import ReportConfig
from emorec.errors import UserError
from emorec.runs.logs import start_logging

OWN_KEYS = ("paths", "output", "progress", "extraction", "features")


def main(arguments: Sequence[str]) -> int:
    """Prints the table of all runs that match the filters, and writes tables and figures."""
    own, filters = [], {}
    for word in arguments:
        key, separator, value = word.partition("=")
        if word.startswith("-") or not separator or key.split(".")[0] in OWN_KEYS:
            own.append(word)
        else:
            filters[key] = value.strip("[]").split(",")
    composed = compose_once("report", ReportConfig, own)
    if composed is None:
        return 0
    start_logging()
    config = composed.config
    from emorec.reporting.aggregate import finished_runs, grouped, matching
    from emorec.reporting.report import write_report
    from emorec.runs.checkpoint_store import CheckpointStore
    from emorec.storage.folders import check_real_folder

    if config.output.parent == config.paths.checkpoints:  # a folder elsewhere is the user's own choice
        check_real_folder(config.output)
    folders = [Path(value).expanduser() for value in filters.pop("folder", ())]
    runs = matching(finished_runs(CheckpointStore(config.paths.checkpoints), folders), filters)
    if not runs:
        where = ", ".join(map(str, folders)) or str(config.paths.checkpoints)
        asked = " ".join(f"{key}={','.join(values)}" for key, values in filters.items())
        hint = "; output=… says where the report is written" if folders else ""
        raise UserError(f"expected finished runs in {where}{f' with {asked}' if asked else ''}, found none{hint}")
    print(write_report(config.output, grouped(runs)))
    print(f"report: {config.output / 'report.md'}\nfigures: {config.output / 'figures'}")
    return 0
