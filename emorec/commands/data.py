"""`emorec data check|download|fixture`: looks a corpus over, fetches one, or writes a small one of the same layout."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from emorec.config.composition import compose_once
from emorec.runs.logs import start_logging
from emorec.config.instantiation import target_of
from emorec.errors import UserError, choose

USAGE = "usage: emorec data check|download|fixture [--json] dataset=… [key=value …]"


def main(words: Sequence[str]) -> int:
    """Runs an action; returns 1 where `check` found something fatal."""
    as_json = "--json" in words
    rest = [word for word in words if word != "--json"]
    if rest[:1] in (["--help"], ["-h"]):
        print(USAGE)
        return 0
    if not rest or rest[0] not in ACTIONS:
        raise UserError(f"expected {', '.join(ACTIONS)}, got {rest[:1] or 'nothing'}; {USAGE}")
    composed = compose_once("data", rest[1:])
    if composed is None:
        return 0
    start_logging()
    return ACTIONS[rest[0]](composed.config, as_json)


def check(config: Mapping[str, Any], as_json: bool) -> int:
    """Looks a corpus over before anything is trained on it."""
    from emorec.datamodules.corpus_check import check, tell

    checkup = check(config)
    print(json.dumps(checkup.as_json(), indent=2, ensure_ascii=False) if as_json else tell(checkup))
    return 1 if checkup.fatal else 0


def download(config: Mapping[str, Any], as_json: bool) -> int:
    """Fetches a corpus into its folder."""
    from emorec.datasets.download import fetch_archives, read_record

    corpus = target_of(config["dataset"], where="dataset")
    if corpus.name not in config["sources"] or not corpus.archives:
        raise UserError(
            f"expected a dataset that can be fetched, {sorted(config['sources'])}, got {corpus.name!r}; "
            "the others are had from their authors"
        )
    asked = sorted(corpus.archives) if config["parts"] == "all" else config["parts"]
    if not isinstance(asked, list):
        raise UserError(f"expected parts to be all or a list such as [{sorted(corpus.archives)[0]}], got {asked!r}")
    names = [choose(corpus.archives, str(part), "parts") for part in asked]
    source = str(config["sources"][corpus.name])
    record = read_record(source)
    files = [choose(record, name, f"the record {source} to hold the archive") for name in names]
    folder = Path(config["dataset"]["root"]).expanduser()
    count = fetch_archives(files, folder, progress=config["progress"])
    report = {"folder": str(folder), "parts": list(asked), "fetched": count}
    print(json.dumps(report) if as_json else f"{corpus.name}: {len(names)} parts in {folder}, {count} fetched now")
    return 0


def fixture(config: Mapping[str, Any], as_json: bool) -> int:
    """Writes a small corpus with real media in the layout of a dataset."""
    if config["to"] is None:
        raise UserError("expected the folder to write, such as to=/tmp/small_corpus")
    folder = Path(str(config["to"])).expanduser()
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"expected an empty folder or none, found files in {folder}")
    corpus = target_of(config["dataset"], where="dataset")
    folder.mkdir(parents=True, exist_ok=True)
    corpus.write_fixture(folder)
    print(json.dumps({"folder": str(folder)}) if as_json else f"{corpus.name}: a small corpus in {folder}")
    return 0


ACTIONS: dict[str, Callable[[Mapping[str, Any], bool], int]] = {
    "check": check,
    "download": download,
    "fixture": fixture,
}
