"""`python -m emorec <command>`: the same as the `emorec` script."""

import sys
from pathlib import Path

if not sys.flags.safe_path and Path(sys.path[0]) not in Path(__file__).resolve().parents:
    del sys.path[0]  # `-m` puts the working directory first, whose modules are not emorec's

from emorec.cli import main

if __name__ == "__main__":
    sys.exit(main())
