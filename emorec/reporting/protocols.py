"""The protocol behind a number, in one string that can be cited."""

from pathlib import Path

from emorec.reporting.aggregate import Run
from emorec.runs.results import SHARED_NOTE, SPEAKER_NOTE


def protocol_of(run: Run, metric: str, separates: str | None = None) -> str:
    """`ravdess:five_fold(speakers):uar:speaker-normalised`: corpus, protocol, metric, and what else a reader must know.

    The protocol names in parentheses who is never in two splits, which older runs do not record. Of a corpus of one's
    own the table's name is given, and of a run on a part of its corpus the limit.

    Args:
        run: of which the number is.
        metric: such as "uar" or "test/uar"; the split is left out.
        separates: who is never in two splits, where the run does not record it.
    """
    data, config = run.record.data, run.config
    corpus, table = str(data.get("dataset", "")), config.get("dataset.table")
    separates = data.get("separates") or separates
    parts = [f"{corpus}({Path(str(table)).name})" if table else corpus]
    parts.append(f"{data.get('protocol', '')}({separates})" if separates else str(data.get("protocol", "")))
    parts.append(metric.rpartition("/")[2])
    if config.get("dataset.limit") is not None:
        parts.append(f"limit={config['dataset.limit']}")
    if data.get("shares_speakers"):
        parts.append(SHARED_NOTE)
    if run.normalises_speakers:
        parts.append(SPEAKER_NOTE)
    return ":".join(parts)
