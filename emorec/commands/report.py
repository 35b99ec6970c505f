"""`emorec report`: compares finished runs."""

from collections.abc import Sequence
from pathlib import Path

from emorec.config.composition import compose_once
from emorec.runs.logs import start_logging
from emorec.errors import UserError

OWN_KEYS = ("paths", "folder", "progress", "extraction", "features")


def main(words: Sequence[str]) -> int:
    """Prints the table of all runs that match the filters, and writes tables and figures."""
    own, filters = [], {}
    for word in words:
        key, separator, value = word.partition("=")
        if word.startswith("-") or not separator or key.split(".")[0] in OWN_KEYS:
            own.append(word)
        else:
            filters[key] = value.strip("[]").split(",")
    composed = compose_once("report", own)
    if composed is None:
        return 0
    start_logging()
    from emorec.reporting.aggregate import finished_runs, grouped, matching
    from emorec.reporting.report import write_report
    from emorec.runs.checkpoint_store import CheckpointStore

    root = Path(composed.config["paths"]["checkpoints"])
    runs = matching(finished_runs(CheckpointStore(root)), filters)
    if not runs:
        asked = " ".join(f"{key}={','.join(values)}" for key, values in filters.items())
        raise UserError(f"expected finished runs in {root}, found none{f' with {asked}' if asked else ''}")
    folder = Path(composed.config["folder"])
    print(write_report(folder, grouped(runs)))
    print(f"report: {folder / 'report.md'}\nfigures: {folder / 'figures'}")
    return 0
