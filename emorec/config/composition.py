"""From a command line to a composed config, through Hydra."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir, main
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from emorec.config.credentials import check_config
from emorec.config.instantiation import config_folder, register_resolvers
from emorec.errors import UserError

# Flags that take a value, and flags that only print something; Hydra answers the latter itself.
WITH_VALUE = {"--config-name", "-cn", "--config-dir", "-cd", "--package", "-p", "--cfg", "-c", "--info", "-i"}
PRINTING = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}
WITH_OPTIONAL_VALUE = {"--info", "-i"}
INFO_CHOICES = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
NO_NAME = re.compile(r"null|Null|NULL|None|~|[Tt]rue|[Ff]alse|[-+.\d]+|")  # what is read as another thing than a name
KNOWN = WITH_VALUE | PRINTING | {"--multirun", "-m", "--resolve", "--run", "-r"}


@dataclass
class CommandLine:
    """A command's arguments, flags parted from overrides wherever they stood.

    Attributes:
        config_name: the command's config.
        overrides: `key=value`, in order.
        flags: all flags with their values, in order.
        multirun: whether `-m` was among them.
        config_dir: a lab's own configs.
    """

    config_name: str
    overrides: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    multirun: bool = False
    config_dir: str | None = None

    @property
    def prints_only(self) -> bool:
        return any(flag in PRINTING for flag in self.flags)


@dataclass(frozen=True)
class Composed:
    """A composed config.

    Attributes:
        config: resolved, primitives only.
        choices: {group: name} that were composed.
        overrides: what the command line changed.
        config_dir: a lab's own configs.
    """

    config: dict[str, Any]
    choices: dict[str, str]
    overrides: list[str]
    config_dir: str | None = None


def parse(config_name: str, words: Sequence[str]) -> CommandLine:
    """Parts flags from overrides.

    Raises:
        UserError: an unknown flag, or one without its value.
    """
    line = CommandLine(config_name)
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            line.overrides.append(word)
            continue
        flag, _, value = word.partition("=")
        if flag not in KNOWN:
            raise UserError(f"expected a flag in {sorted(KNOWN)}, got {word!r}")
        line.flags.append(flag)
        if flag in WITH_VALUE:
            optional = flag in WITH_OPTIONAL_VALUE
            follows = bool(rest) and (rest[0] in INFO_CHOICES if optional else not rest[0].startswith("-"))
            if not value and follows:
                value = rest.pop(0)
            if value:
                line.flags.append(value)
            elif not optional:
                raise UserError(f"expected a value after {flag}")
        line.multirun |= flag in ("-m", "--multirun")
        if flag in ("--config-dir", "-cd"):
            line.config_dir = str(Path(value).expanduser().absolute())
        if flag in ("--config-name", "-cn"):
            line.config_name = value
    return line


def print_with_hydra(line: CommandLine) -> int:
    """Lets Hydra answer `--help`, `--cfg`, `--info` and shell completion."""
    register_resolvers()
    _check_choices(line, line.overrides)
    flags = [flag for flag in line.flags if flag not in ("-m", "--multirun")]  # Hydra prints no multirun
    sys.argv = ["emorec", *flags, *map(_placed, line.overrides)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # its errors reach us as exceptions, with their messages
    try:
        with _hydra_errors():
            main(version_base="1.3", config_path=str(config_folder()), config_name=line.config_name)(lambda _: None)()
    except SystemExit as ended:  # some flags end Hydra so
        return int(ended.code or 0)
    return 0


def _placed(override: str) -> str:
    """An override as Hydra takes it: experiments are composed at the top, whatever their first line is."""
    key, separator, value = override.partition("=")
    return f"experiment@_global_={value}" if separator and key.lstrip("+") == "experiment" else override


def _check_choices(line: CommandLine, overrides: Sequence[str]) -> None:
    """Refuses a choice that is no name, such as `encoder/video=null`: Hydra's own words for it name no group."""
    folders = [config_folder(), *([Path(line.config_dir)] if line.config_dir else [])]
    for override in overrides:
        key, _, value = override.partition("=")
        names = sorted({path.stem for folder in folders for path in (folder / key.lstrip("+")).glob("*.yaml")})
        if names and NO_NAME.fullmatch(value):
            raise UserError(f"expected a choice for {key} in {names}, got {value!r}")


@contextmanager
def _hydra_errors() -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        cause = f"\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
        hint = "\nother letters and marks stand in quotes: key=\"'value'\"" if "Lexer" in str(error) else ""
        raise UserError(f"{str(error).strip()}{cause}{hint}") from error


@contextmanager
def composer(line: CommandLine) -> Iterator["Composer"]:
    """Composes configs for a command line, as many as are asked for."""
    register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder()), job_name="emorec"):
        yield Composer(line)


class Composer:
    """Composes configs; see `composer`."""

    def __init__(self, line: CommandLine) -> None:
        self.line = line

    def compose(self, overrides: Sequence[str]) -> Composed:
        """The config of one job.

        Raises:
            UserError: a choice that is not there (the choices are listed), an unknown key, a missing value.
        """
        _check_choices(self.line, overrides)
        extra = [] if self.line.config_dir is None else [f"hydra.searchpath=[file://{self.line.config_dir}]"]
        with _hydra_errors():
            node = compose(
                self.line.config_name, overrides=[*map(_placed, overrides), *extra], return_hydra_config=True
            )
            choices = {
                group.removesuffix("@_global_"): str(name)
                for group, name in node.hydra.runtime.choices.items()
                if name is not None and not group.startswith("hydra") and "@" not in group.removesuffix("@_global_")
            }
            with open_dict(node):
                node.pop("hydra")
            assert isinstance(node, DictConfig)
            config = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        assert isinstance(config, dict)
        named = {str(key): value for key, value in config.items()}
        check_config(named)
        return Composed(named, choices, list(overrides), self.line.config_dir)


def compose_once(config_name: str, words: Sequence[str]) -> Composed | None:
    """The config of a command that runs once; `None` where Hydra has answered a printing flag.

    Raises:
        UserError: as `Composer.compose`, or `-m` for a command that has no multirun.
    """
    line = parse(config_name, words)
    if line.prints_only:
        print_with_hydra(line)
        return None
    if line.multirun:
        raise UserError(f"expected no -m, for emorec {config_name} runs once")
    with composer(line) as open_composer:
        return open_composer.compose(line.overrides)
