"""Arguments of the commands that manage what is on disk: subcommands, flags, and overrides of the config."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from emorec.config.composition import compose_once
from emorec.config.schema import PathsConfig, ReportConfig
from emorec.errors import UserError
from emorec.runs.logs import start_logging
from emorec.storage.atomic import strict_json

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UserError`s."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.format_usage().strip()}")


def duration(text: str) -> float:
    """`30d`, `12h`, `90m`, `10s` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a time such as 30d, 12h or 90m, got {text!r}")
    return float(match[1]) * SECONDS[match[2]]


def size(text: str) -> int:
    """`500MB`, `10GB`, `1.5T` in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)b?", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a size such as 500MB or 10GB, got {text!r}")
    return round(float(match[1]) * BYTES[match[2]])


def subcommands(command: str, description: str, actions: Mapping[str, str]) -> tuple[Parser, dict[str, Parser]]:
    """The parser of a command, and {name: parser} of its actions {name: help}, which all take `--json`."""
    parser = Parser(prog=f"emorec {command}", description=description)
    group = parser.add_subparsers(dest="action", required=True, parser_class=Parser)
    parsers = {name: group.add_parser(name, help=text, description=text) for name, text in actions.items()}
    for action in parsers.values():
        action.add_argument("--json", action="store_true", help="print JSON")
    return parser, parsers


def parse(parser: Parser, arguments: Sequence[str]) -> tuple[argparse.Namespace, PathsConfig]:
    """The parsed arguments, and the paths of the config with the overrides among them; starts to log."""
    overrides = [word for word in arguments if re.match(r"[\w.]+=", word)]
    parsed = parser.parse_args([word for word in arguments if word not in overrides])
    composed = compose_once("report", ReportConfig, overrides)
    assert composed is not None
    start_logging()
    return parsed, composed.config.paths


def emit(arguments: argparse.Namespace, value: object, text: Callable[[], str], *, code: int = 0) -> int:
    """Prints a value as JSON where `--json` asks for it, else as text; returns the exit code."""
    print(strict_json(value, ascii_only=True) if arguments.json else text())
    return code


def summary(count: int, what: str, size_in_bytes: int, *, acted: bool) -> str:
    """What a clean-up removed, or would remove."""
    verb = "removed" if acted else "would remove"
    hint = "" if acted or not count else "; --yes removes them"
    return f"{verb} {count} {what}, {size_in_bytes / 1e6:.1f} MB{hint}"
