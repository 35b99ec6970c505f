"""Writes the encoders' present output to the golden file: `python -m tests.encoders.renew_golden`.

Refuses an output that changed while its encoder's `version` did not, as stored features would be taken for new ones.
"""

import json
import sys
import tempfile
from pathlib import Path

from tests.encoders.golden import CHOICES, FILE, HOW_TO_RENEW, agree, can_run, make, output, read, summary


def main() -> int:
    golden, renewed, refused = read(), {}, []
    for choice in CHOICES:
        if not can_run(choice):
            if choice in golden:
                renewed[choice] = golden[choice]
            continue
        encoder = make(choice)
        with tempfile.TemporaryDirectory() as folder:
            actual = summary(output(encoder, Path(folder)))
        old = golden.get(choice)
        if old is not None and old["version"] == encoder.version:
            if not agree(encoder.modality, actual, old["summary"]):
                refused.append(choice)
            renewed[choice] = old
        else:
            renewed[choice] = {"version": encoder.version, "summary": actual}
    if refused:
        print(f"the output of {', '.join(refused)} changed, the version did not: {HOW_TO_RENEW}", file=sys.stderr)
        return 2
    FILE.write_text(json.dumps(renewed, indent=2, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
