"""How two runs differ, and the command that makes a run."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emorec.config.keys import flat
from emorec.markdown import markdown_table
from emorec.runs.checkpoint_store import RunRecord, stored_config
from emorec.runs.results import read_metrics, scalar_metrics

NOTHING = "–"
# Overrides that only say where, how fast and under which name a run is made.
LEFT_OUT = ("launcher", "sweep", "progress", "on_running", "rerun", "hydra")
CONFIG_FLAGS = ("--config-dir", "-cd", "--config-name", "-cn")
Pairs = dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class RunDifference:
    """What differs between two runs: {what: (of the first, of the second)}; `None` where one has no such thing."""

    runs: tuple[str, str]
    config: Pairs  # {dotted key: values}
    data: Pairs  # corpus, protocol, seed, utterances
    features: Pairs  # {modality: folders of its features in the cache}
    code: Pairs  # version, commit, source, libraries
    metrics: Pairs  # all numbers that both or one of them have


def run_difference(first: tuple[RunRecord, Path], second: tuple[RunRecord, Path]) -> RunDifference:
    """How two runs, given by their records and directories, differ.

    Raises:
        UserError: a config or metrics are not readable.
    """
    (ours, folder), (theirs, other_folder) = first, second
    metrics = scalar_metrics(read_metrics(folder)), scalar_metrics(read_metrics(other_folder))
    return RunDifference(
        runs=(ours.run_id, theirs.run_id),
        config=_differing(flat(stored_config(folder)), flat(stored_config(other_folder))),
        data=_differing(_data(ours), _data(theirs)),
        features=_differing(ours.features, theirs.features),
        code=_differing(_code(ours), _code(theirs)),
        metrics={key: (metrics[0].get(key), metrics[1].get(key)) for key in _keys(*metrics)},
    )


def _data(record: RunRecord) -> dict[str, Any]:
    return {**record.data, "seed": record.seed, "fold": record.fold}


def _code(record: RunRecord) -> dict[str, Any]:
    names = ("emorec", "source", "git_commit", "python", "libraries")
    return flat({name: record.provenance.get(name) for name in names})


def _keys(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> Pairs:
    pairs = {key: (first.get(key), second.get(key)) for key in _keys(first, second)}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def difference_page(difference: RunDifference) -> str:
    """The difference as tables, for people."""
    parts = [f"runs {' and '.join(difference.runs)}"]
    for title in ("config", "data", "features", "code"):
        pairs: Pairs = getattr(difference, title)
        if not pairs:
            parts.append(f"{title}: no difference")
            continue
        rows = [[key, *(_text(value) for value in pair)] for key, pair in pairs.items()]
        parts.append(markdown_table([title, *difference.runs], rows))
    rows = [[key, *_numbers(*pair)] for key, pair in difference.metrics.items()]
    parts.append(markdown_table(["metric", *difference.runs, "difference"], rows) if rows else "metrics: none")
    return "\n\n".join(parts)


def _text(value: Any) -> str:
    return NOTHING if value is None else str(value)


def _numbers(first: float | None, second: float | None) -> list[str]:
    cells = [NOTHING if value is None else f"{value:.4f}" for value in (first, second)]
    return [*cells, NOTHING if first is None or second is None else f"{second - first:+.4f}"]


def command_of(record: RunRecord) -> str:
    """The command line that makes a run, for a shell.

    It has the overrides that the run was started with, less those that leave its result alone, and the fold and the
    configs of a lab's own that it was started with.
    """
    overrides = [word for word in record.overrides if word.lstrip("+~").split(".")[0].split("=")[0] not in LEFT_OUT]
    fold = f"dataset.fold={record.fold}"
    if record.fold is not None and fold not in overrides:
        overrides = [word for word in overrides if not word.startswith("dataset.fold=")] + [fold]
    return shlex.join(["emorec", "train", *_flags(record), *overrides])


def _flags(record: RunRecord) -> list[str]:
    """`--config-dir` and `--config-name` with their values, of the command that started a run."""
    words, flags = [str(word) for word in record.provenance.get("command", ())], []
    if "train" not in words[:2]:
        return []
    for index, word in enumerate(words):
        if word.partition("=")[0] in CONFIG_FLAGS:
            flags += [word] if "=" in word else words[index : index + 2]
    return flags
