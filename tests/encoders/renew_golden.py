"""Keeps the encoders' present output as golden: `python -m tests.encoders.renew_golden`.

An output that changed without its encoder's `version` is refused, for stored features would be taken for fresh ones.
"""

import json
import sys
import tempfile
from pathlib import Path

from tests.encoders.golden import CHOICES, FILE, HOW_TO_RENEW, agree, can_run, make, output, read, summary


def main() -> int:
    kept, renewed, refused = read(), {}, []
    for choice in CHOICES:
        if not can_run(choice):
            if choice in kept:
                renewed[choice] = kept[choice]
            continue
        encoder = make(choice)
        with tempfile.TemporaryDirectory() as folder:
            found = summary(output(encoder, Path(folder)))
        old = kept.get(choice)
        if old is not None and old["version"] == encoder.version:
            if not agree(encoder.modality, found, old["summary"]):
                refused.append(choice)
            renewed[choice] = old
        else:
            renewed[choice] = {"version": encoder.version, "summary": found}
    if refused:
        print(f"the output of {', '.join(refused)} changed, the version did not: {HOW_TO_RENEW}", file=sys.stderr)
        return 2
    FILE.write_text(json.dumps(renewed, indent=2, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
