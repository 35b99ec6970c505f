"""Shell completion: `eval "$(emorec train -sc install=bash)"`."""

import os
from collections.abc import Sequence
from contextlib import suppress

from emorec.config.command_line import CommandLine
from emorec.config.composition import print_with_hydra
from emorec.config.schema import SCHEMAS
from emorec.errors import UserError

SUBCOMMANDS = {
    "data": ("check", "download", "fixture"),
    "cache": ("ls", "verify", "gc", "compact"),
    "runs": ("ls", "show", "verify", "gc", "rm", "export", "sweeps", "sync"),
}


def main(arguments: Sequence[str], commands: Sequence[str]) -> int:
    """Completes the command's name here, and lets Hydra complete what follows it."""
    flag, *overrides = arguments
    if not any(word.startswith("query=") for word in overrides):
        return print_with_hydra(CommandLine("train", overrides, [flag]))
    line = os.environ.get("COMP_LINE", "")
    typed = line.split()[1:]
    complete = typed if line.endswith(" ") else typed[:-1]  # words that are typed out
    if not complete:
        print("\n".join(commands))
        return 0
    command = complete[0]
    depth = 2 if command in SUBCOMMANDS else 1
    if len(complete) < depth:
        print("\n".join(SUBCOMMANDS[command]))
    elif command in SCHEMAS:
        os.environ["COMP_LINE"] = _rest(line, depth)
        with suppress(UserError):  # a shell has no place for it
            print_with_hydra(CommandLine(command, overrides, [flag]))
    return 0


def _rest(line: str, depth: int) -> str:
    """The line without the command's words: "emorec data check da" -> "emorec da"."""
    parts = line.lstrip().split(maxsplit=depth + 1)
    return f"emorec {' '.join(parts[depth + 1 :])}"
