"""`emorec data check`: looks a corpus over before anything is trained on it."""

import json
from collections.abc import Sequence

from emorec.commands.composition import compose_once
from emorec.commands.logs import start_logging
from emorec.errors import UserError

USAGE = "usage: emorec data check [--json] dataset=… [dataset.root=…]"


def main(words: Sequence[str]) -> int:
    """Checks a corpus and prints what was found; returns 1 where something is fatal."""
    as_json = "--json" in words
    rest = [word for word in words if word != "--json"]
    if rest[:1] in (["--help"], ["-h"]):
        print(USAGE)
        return 0
    if rest[:1] != ["check"]:
        raise UserError(f"expected check, got {rest[:1] or 'nothing'}; {USAGE}")
    composed = compose_once("extract", rest[1:])
    if composed is None:
        return 0
    start_logging()
    from emorec.commands.checkup import check, tell

    checkup = check(composed.config)
    print(json.dumps(checkup.as_json(), indent=2, ensure_ascii=False) if as_json else tell(checkup))
    return 1 if checkup.fatal else 0
