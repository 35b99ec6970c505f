"""`emorec cache ls`: what features are stored."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from emorec.commands.composition import compose_once
from emorec.errors import UserError
from emorec.reporting.tables import markdown_table

USAGE = "usage: emorec cache ls [--json] [paths.cache=…]"


def main(words: Sequence[str]) -> int:
    """Lists the specs of the feature store."""
    as_json = "--json" in words
    rest = [word for word in words if word != "--json"]
    if rest[:1] in (["--help"], ["-h"]):
        print(USAGE)
        return 0
    if rest[:1] != ["ls"]:
        raise UserError(f"expected ls, got {rest[:1] or 'nothing'}; {USAGE}")
    composed = compose_once("report", rest[1:])
    if composed is None:
        return 0
    from emorec.features.inventory import inventory

    found = inventory(Path(composed.config["paths"]["cache"]))
    if as_json:
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
