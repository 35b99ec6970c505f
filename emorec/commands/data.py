"""`emorec data check|download|fixture`: checks a corpus, downloads one, or writes a small one of the same layout."""

import json
from collections.abc import Callable, Sequence

from emorec.config.composition import compose_once
from emorec.config.schema import DataConfig
from emorec.errors import UserError, choose
from emorec.runs.logs import start_logging

USAGE = "usage: emorec data check|download|fixture [--json] dataset=… [key=value …]"


def main(arguments: Sequence[str]) -> int:
    """Runs an action; returns 1 where `check` found something fatal."""
    as_json = "--json" in arguments
    rest = [word for word in arguments if word != "--json"]
    if rest[:1] in (["--help"], ["-h"]):
        print(USAGE)
        return 0
    if not rest or rest[0] not in ACTIONS:
        raise UserError(f"expected {', '.join(ACTIONS)}, got {rest[:1] or 'nothing'}; {USAGE}")
    composed = compose_once("data", DataConfig, rest[1:])
    if composed is None:
        return 0
    start_logging()
    return ACTIONS[rest[0]](composed.config, as_json)


def check(config: DataConfig, as_json: bool) -> int:
    """Checks a corpus before anything is trained on it."""
    from emorec.datamodules.corpus_check import check_corpus

    result = check_corpus(config)
    print(json.dumps(result.as_json(), indent=2, ensure_ascii=False) if as_json else result.as_text())
    return 1 if result.fatal else 0


def download(config: DataConfig, as_json: bool) -> int:
    """Downloads a corpus into its folder."""
    from pathlib import Path

    from emorec.datasets.download import fetch_files
    from emorec.datasets.records import read_record

    corpus = config.dataset.target
    name, parts, origin = getattr(corpus, "name", ""), getattr(corpus, "parts", {}), getattr(corpus, "origin", "")
    if not parts:
        raise UserError(f"expected a dataset that can be downloaded, got {name!r}. {origin}".rstrip())
    names = sorted(parts) if config.parts == "all" else list(config.parts)
    chosen = [choose(parts, str(part), "parts") for part in names]
    files = [
        item
        for part in chosen
        for item in read_record(choose(config.sources, part.source or name, "sources"), part.path, config.download)
    ]
    folder = Path(config.dataset.arguments["root"]).expanduser()
    count = fetch_files(files, folder, config.download, progress=config.progress)
    report = {"folder": str(folder), "parts": names, "fetched": count}
    print(json.dumps(report) if as_json else f"{name}: {len(names)} parts in {folder}, {count} downloaded now")
    return 0


def fixture(config: DataConfig, as_json: bool) -> int:
    """Writes a small corpus with real media in the layout of a dataset."""
    from emorec.datasets.manifest import Corpus

    if config.to is None:
        raise UserError("expected a folder to write to, such as to=/tmp/small_corpus")
    folder = config.to.expanduser()
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"expected an empty folder or none, found files in {folder}")
    corpus = config.dataset.target
    assert issubclass(corpus, Corpus)
    folder.mkdir(parents=True, exist_ok=True)
    corpus.write_fixture(folder)
    print(json.dumps({"folder": str(folder)}) if as_json else f"{corpus.name}: a small corpus in {folder}")
    return 0


ACTIONS: dict[str, Callable[[DataConfig, bool], int]] = {"check": check, "download": download, "fixture": fixture}
