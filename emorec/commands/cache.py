"""`emorec cache ls|verify|gc|compact`: manages the stored features."""

import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict

from emorec.commands.arguments import duration, emit, parse, size, subcommands, summary
from emorec.config.schema import PathsConfig
from emorec.markdown import markdown_table

ACTIONS = {
    "ls": "lists the stored features, by spec",
    "verify": "hashes every shard again and quarantines broken ones",
    "gc": "removes the features of whole specs; a dry run without --yes",
    "compact": "merges small shards",
}


def main(arguments: Sequence[str]) -> int:
    """Runs a subcommand; `verify` returns 1 where something is broken."""
    parser, action = subcommands("cache", "Manages the stored features.", ACTIONS)
    action["gc"].add_argument("--older-than", type=duration, help="last used longer ago, such as 30d")
    action["gc"].add_argument("--unused", action="store_true", help="not used by any run")
    action["gc"].add_argument("--max-size", type=size, help="longest unused first, down to this size, such as 50GB")
    action["gc"].add_argument("--yes", action="store_true", help="remove them")
    parsed, paths = parse(parser, arguments)
    run = {"ls": _list, "verify": _verify, "gc": _collect, "compact": _compact}
    return run[parsed.action](parsed, paths)


def _list(arguments: Namespace, paths: PathsConfig) -> int:
    from emorec.features.inventory import inventory

    entries = inventory(paths.cache)
    counts = ("utterances", "bad", "shards")

    def table() -> str:
        rows = [
            [
                *(entry["folder"], entry["checkpoint"] or "", (entry["revision"] or "")[:12]),
                *(str(entry[name]) for name in counts),
                f"{entry['bytes'] / 1e6:.1f}",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["last_use"])),
            ]
            for entry in entries
        ]
        return markdown_table(["features", "checkpoint", "revision", *counts, "MB", "last use"], rows)

    return emit(arguments, entries, table)


def _verify(arguments: Namespace, paths: PathsConfig) -> int:
    from emorec.features.maintenance import verify

    result = verify(paths.cache)
    lines = [f"{name}: {reason}; quarantined" for name, reason in result.broken.items()]
    lines.append(f"{result.checked} shards checked, {len(result.broken)} broken")
    return emit(arguments, asdict(result), lambda: "\n".join(lines), code=1 if result.broken else 0)


def _collect(arguments: Namespace, paths: PathsConfig) -> int:
    from emorec.features.maintenance import collect
    from emorec.runs.maintenance import used_features

    result = collect(
        paths.cache,
        older_than=arguments.older_than,
        used=used_features(paths.checkpoints) if arguments.unused else None,
        max_bytes=arguments.max_size,
        act=arguments.yes,
    )
    lines = [f"  {name}" for name in result.removed]
    lines += [f"  {name} is in use and stays" for name in result.in_use]
    lines.append(summary(len(result.removed), "specs", result.bytes, acted=arguments.yes))
    if arguments.older_than is None and not arguments.unused and arguments.max_size is None:
        lines.append("nothing was asked for: --older-than, --unused or --max-size")
    return emit(arguments, {**asdict(result), "acted": arguments.yes}, lambda: "\n".join(lines))


def _compact(arguments: Namespace, paths: PathsConfig) -> int:
    from emorec.features.compaction import compact_all

    saved = compact_all(paths.cache)
    return emit(arguments, saved, lambda: f"{sum(saved.values())} shards less in {len(saved)} specs")
