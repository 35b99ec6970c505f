"""The command line of a config: flags apart from overrides, and the overrides as Hydra takes them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from emorec.config.locations import config_folder
from emorec.errors import UserError, raise_problems

# Flags that take a value, and flags that only print something; Hydra answers the latter itself.
WITH_VALUE = {"--config-name", "-cn", "--config-dir", "-cd", "--package", "-p", "--cfg", "-c", "--info", "-i"}
PRINTING = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}
WITH_OPTIONAL_VALUE = {"--info", "-i"}
INFO_CHOICES = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
CFG_CHOICES = ("job", "hydra", "all")
FLAG_CHOICES = {"--info": INFO_CHOICES, "-i": INFO_CHOICES, "--cfg": CFG_CHOICES, "-c": CFG_CHOICES}
KNOWN = WITH_VALUE | PRINTING | {"--multirun", "-m", "--resolve", "--run", "-r"}
PATH_KEYS = {  # keys that name a user's own files: they are texts, whatever is in them
    "predict": ("input", "output", "subtitles", "plot", "whisper.model"),
    "export": ("to",),
}
OPEN = ("loss.weights.", "task_weights.")  # beginnings of keys that are names
JOIN = "+"  # between the names of several losses
SEVERAL = "several"  # the choice of the group `loss` that holds others
CHOICES = re.compile(r"[^,\[\](){}$'\"]*|\[[^\[\](){}$'\"]*\]")  # one or a list; no sweep or interpolation


@dataclass
class CommandLine:
    """The arguments of a command, flags apart from overrides."""

    config_name: str
    overrides: list[str] = field(default_factory=list)  # `key=value`, in order
    flags: list[str] = field(default_factory=list)  # all flags with their values, in order
    multirun: bool = False  # whether `-m` is among them
    config_dir: str | None = None  # a lab's own configs

    @property
    def prints_only(self) -> bool:
        return any(flag in PRINTING for flag in self.flags)


def parse(config_name: str, arguments: Sequence[str]) -> CommandLine:
    """Separates flags from overrides.

    Raises:
        UserError: an unknown flag, or one without its value.
    """
    line = CommandLine(config_name)
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            line.overrides.append(word)
            continue
        flag, _, value = word.partition("=")
        if flag not in KNOWN:
            raise UserError(f"expected a flag in {sorted(KNOWN)}, got {word!r}")
        line.flags.append(flag)
        if flag in WITH_VALUE and (value := _value_of(flag, value, rest)):
            line.flags.append(value)
        line.multirun |= flag in ("-m", "--multirun")
        if flag in ("--config-dir", "-cd"):
            line.config_dir = str(Path(value).expanduser().absolute())
        if flag in ("--config-name", "-cn"):
            line.config_name = value
    return line


def _value_of(flag: str, value: str, rest: list[str]) -> str:
    """The value of a flag: after its "=", else the next word, which is then taken from `rest`."""
    choices, optional = FLAG_CHOICES.get(flag, ()), flag in WITH_OPTIONAL_VALUE
    if not value and rest and (rest[0] in choices if optional else not rest[0].startswith("-")):
        value = rest.pop(0)
    if not value and not optional:
        raise UserError(f"expected a value after {flag}")
    if value and choices and value not in choices:
        raise UserError(f"{flag}: expected a choice in {choices}, got {value!r}")
    return value


def quoted(text: str) -> str:
    """A text as a value in Hydra's grammar, whatever is in it."""
    return QuotedString(text, Quote.single).with_quotes()


def for_hydra(line: CommandLine, overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them, with the user's folder of configs."""
    extra = [] if line.config_dir is None else [f"hydra.searchpath=[{quoted(f'file://{line.config_dir}')}]"]
    texts = PATH_KEYS.get(line.config_name, ())
    words = (f"{key}={_quoted_path(value)}" if key in texts else word for word, key, value in map(_parted, overrides))
    return [*(found for word in words for found in _for_hydra(word)), *extra]


def _parted(override: str) -> tuple[str, str, str]:
    """An override with its key and value."""
    key, _, value = override.partition("=")
    return override, key, value


def _quoted_path(value: str) -> str:
    """The name of a file as a text, whatever is in it; null and what is quoted stay."""
    return value if not value or value == "null" or value[0] in "'\"$" else quoted(value)


def _for_hydra(override: str) -> list[str]:
    """An experiment is composed at the top, whatever its first line is. A run is a text: 12e4 is no number. Each of
    several losses is a key of its own."""
    key, separator, value = override.partition("=")
    if separator and key.lstrip("+") == "experiment":
        return [f"experiment@_global_={value}"]
    if key in ("run", "runs") and value and value[0] not in "'\"$":
        return [f"{key}={_quoted_runs(value)}"]
    if key == "loss" and value.startswith("[") and CHOICES.fullmatch(value):
        names = [name.strip() for name in value.strip("[]").split(",")]
        return [f"loss={SEVERAL}", *(f"+loss@loss.{name}={name}" for name in names if name)]
    return [f"++{override}"] if key.startswith(OPEN) else [override]


def _quoted_runs(value: str) -> str:
    """A run, or a list of runs, with each as a text."""
    if not (value.startswith("[") and value.endswith("]")):
        return quoted(value)
    names = [name.strip(" '\"") for name in value[1:-1].split(",")]
    return f"[{','.join(quoted(name) for name in names if name)}]"


def choices_of(line: CommandLine, overrides: Sequence[str], group: str) -> list[str]:
    """The names that a group of configs has, of emorec and of the user; none where there is no such group."""
    folders = [config_folder(), *([Path(line.config_dir)] if line.config_dir else [])]
    search_paths = [override for override in overrides if override.startswith("hydra.searchpath=")]
    folders += [Path(folder) for override in search_paths for folder in re.findall(r"file://([^',\]]+)", override)]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")}) if group else []


def check_overrides(line: CommandLine, overrides: Sequence[str]) -> None:
    """Refuses arguments that are no overrides, choices that a group does not have, and a folder that is none."""
    problems = []
    if line.config_dir is not None and not Path(line.config_dir).is_dir():
        problems.append(f"--config-dir: expected a folder, got {line.config_dir!r}")
    for override in overrides:
        key, separator, value = override.partition("=")
        if not key.lstrip("+~") or (not separator and not key.startswith("~")):
            hint = f"; did you mean run={override}?" if line.config_name == "evaluate" and key else ""
            problems.append(f"expected key=value, got {override!r}{hint}")
        known = choices_of(line, overrides, key.lstrip("+"))
        if known and separator and CHOICES.fullmatch(value):
            names = [name.strip() for name in value.strip("[]").split(",")]
            unknown = [name for name in names if name not in known and not (name == "" and value.startswith("["))]
            problems += [f"{key}: expected a choice in {known}, got {name!r}" for name in unknown]
    raise_problems("the command line", problems)
