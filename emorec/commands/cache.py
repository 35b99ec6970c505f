"""`emorec cache ls|verify|gc|compact`: looks after the stored features."""

import json
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from emorec.commands.arguments import Parser, add_action, duration, parse, size, told
from emorec.runs.logs import start_logging
from emorec.errors import UserError
from emorec.markdown import markdown_table


def main(words: Sequence[str]) -> int:
    """Runs a subcommand; `verify` returns 1 where something is broken."""
    parser = Parser(prog="emorec cache", description="Looks after the stored features.")
    actions = parser.add_subparsers(dest="action", required=True, parser_class=Parser)
    add_action(actions, "ls", "lists what is stored, by spec")
    add_action(actions, "verify", "hashes every shard again and sets broken ones aside")
    collect = add_action(actions, "gc", "removes the features of whole specs; without --yes it only tells")
    collect.add_argument("--older-than", type=duration, help="last used longer ago, such as 30d")
    collect.add_argument("--unused", action="store_true", help="no run was trained on them")
    collect.add_argument("--max-size", type=size, help="longest unused first, down to this size, such as 50GB")
    collect.add_argument("--yes", action="store_true", help="remove them")
    add_action(actions, "compact", "merges small shards")
    arguments, paths = parse(parser, words)
    start_logging()
    run: dict[str, Callable[[Namespace, dict[str, str]], int]] = {
        "ls": _list,
        "verify": _verify,
        "gc": _collect,
        "compact": _compact,
    }
    return run[arguments.action](arguments, paths)


def _list(arguments: Namespace, paths: dict[str, str]) -> int:
    from emorec.features.inventory import inventory

    found = inventory(Path(paths["cache"]))
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    rows = [
        [
            item["folder"],
            str(item["checkpoint"] or ""),
            str(item["revision"] or "")[:12],
            str(item["utterances"]),
            str(item["bad"]),
            str(item["shards"]),
            f"{item['bytes'] / 1e6:.1f}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(item["last_use"])),
        ]
        for item in found
    ]
    print(markdown_table(["features", "checkpoint", "revision", "utterances", "bad", "shards", "MB", "last use"], rows))
    return 0


def _verify(arguments: Namespace, paths: dict[str, str]) -> int:
    from emorec.features.maintenance import verify

    found = verify(Path(paths["cache"]))
    if arguments.json:
        print(json.dumps(asdict(found), indent=2))
    else:
        print("\n".join(f"{name}: {why}; set aside" for name, why in found.broken.items()))
        print(f"{found.checked} shards checked, {len(found.broken)} broken")
    return 1 if found.broken else 0


def _collect(arguments: Namespace, paths: dict[str, str]) -> int:
    from emorec.features.maintenance import collect
    from emorec.runs.checkpoint_store import CheckpointStore

    used = None
    if arguments.unused:
        store = CheckpointStore(Path(paths["checkpoints"]))
        records = list(store.records())
        if len(records) < sum(1 for _ in store.root.glob("*/run.json")) or not store.root.is_dir():
            raise UserError(f"expected to read all runs in {store.root}, for features of unread ones would seem unused")
        used = {name for record in records for name in record.features.values()}
    found = collect(
        Path(paths["cache"]),
        older_than=arguments.older_than,
        used=used,
        max_bytes=arguments.max_size,
        act=arguments.yes,
    )
    if arguments.json:
        print(json.dumps({**asdict(found), "acted": arguments.yes}, indent=2))
        return 0
    for name in found.removed:
        print(f"  {name}")
    for name in found.in_use:
        print(f"  {name} is in use and stays")
    print(told(len(found.removed), "specs", found.bytes, acted=arguments.yes))
    if arguments.older_than is None and used is None and arguments.max_size is None:
        print("nothing was asked for: --older-than, --unused or --max-size")
    return 0


def _compact(arguments: Namespace, paths: dict[str, str]) -> int:
    from emorec.features.extraction import compact_claimed
    from emorec.features.store import FeatureStore
    from emorec.features.maintenance import spec_folders, spec_of
    from emorec.storage.atomic import keeping_time
    from emorec.storage.digests import FileDigests

    cache = Path(paths["cache"])
    digests = FileDigests(cache / "digests.tsv")
    saved = {}
    for folder in spec_folders(cache):
        spec = spec_of(folder)
        if spec is not None:
            with keeping_time(folder):
                saved[folder.name] = compact_claimed(FeatureStore(cache, spec, digests))
    digests.save()
    if arguments.json:
        print(json.dumps(saved, indent=2))
    else:
        print(f"{sum(saved.values())} shards less in {len(saved)} specs")
    return 0
