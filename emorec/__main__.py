"""`python -m emorec <command>`: the same as the `emorec` script."""

import sys

from emorec.cli import main

if __name__ == "__main__":
    sys.exit(main())
