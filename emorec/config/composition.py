"""From a command line to a composed config, through Hydra."""

import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf, open_dict

from emorec.config.credentials import check_config
from emorec.config.hydra_errors import hydra_errors
from emorec.config.interpolations import check_interpolations
from emorec.config.keys import flat
from emorec.config.locations import config_folder, register_resolvers
from emorec.config.schema import CommandConfig
from emorec.config.sources import register_sources
from emorec.config.validation import validated
from emorec.errors import UserError, raise_problems
from emorec.storage.documents import check_depth

C = TypeVar("C", bound=CommandConfig)

# Flags that take a value, and flags that only print something; Hydra answers the latter itself.
WITH_VALUE = {"--config-name", "-cn", "--config-dir", "-cd", "--package", "-p", "--cfg", "-c", "--info", "-i"}
PRINTING = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}
WITH_OPTIONAL_VALUE = {"--info", "-i"}
INFO_CHOICES = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
CFG_CHOICES = ("job", "hydra", "all")
FLAG_CHOICES = {"--info": INFO_CHOICES, "-i": INFO_CHOICES, "--cfg": CFG_CHOICES, "-c": CFG_CHOICES}
KNOWN = WITH_VALUE | PRINTING | {"--multirun", "-m", "--resolve", "--run", "-r"}
CHOICES = re.compile(r"[^,\[\](){}$'\"]*|\[[^\[\](){}$'\"]*\]")  # one or a list; no sweep or interpolation
ALL_FOLDS = "all"  # as `dataset.fold`, it stands for every fold of the protocol


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


@dataclass(frozen=True)
class Composed(Generic[C]):
    """A composed config."""

    schema: type[C]
    values: dict[str, Any]  # plain data, resolved; this is what identifies a run and is written to `config.yaml`
    choices: dict[str, str]  # {group: name} that were composed
    overrides: list[str]  # what the command line changed
    config_name: str = "train"
    config_dir: str | None = None  # a lab's own configs

    @cached_property
    def config(self) -> C:
        """The typed config.

        Raises:
            UserError: lists everything in it that does not fit.
        """
        return validated(self.schema, self.values)

    @property
    def wants_all_folds(self) -> bool:
        """Whether it stands for one run for each fold."""
        return bool((self.values.get("dataset") or {}).get("fold") == ALL_FOLDS)

    def for_fold(self, fold: int | None) -> "Composed[C]":
        """The same for one fold of the protocol."""
        return self.with_values(dataset={**self.values["dataset"], "fold": fold})

    def with_values(self, **changes: Any) -> "Composed[C]":
        """The same with other values of some top-level keys."""
        return replace(self, values={**self.values, **changes})

    def in_sweep(self, name: str) -> "Composed[C]":
        """The same as part of a sweep, and in its overrides."""
        composed = self.with_values(sweep={**self.values["sweep"], "name": name})
        return replace(composed, overrides=[*self.overrides, f"sweep.name={quoted(name)}"])

    @property
    def arguments(self) -> list[str]:
        """The arguments of `emorec train` that compose it again in another process."""
        flags = [] if self.config_dir is None else ["--config-dir", self.config_dir]
        flags += [] if self.config_name == "train" else ["--config-name", self.config_name]
        return ["train", *flags, *self.overrides]


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


class _Printer(Hydra):
    """Answers flags as Hydra does, but builds nothing of a config: Hydra would make its loggers, whatever they are."""

    def compose_config(self, *arguments: Any, **options: Any) -> DictConfig:
        node = super().compose_config(*arguments, **{**options, "with_log_configuration": False})
        check_interpolations(OmegaConf.to_container(node))
        return node


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


def print_with_hydra(line: CommandLine) -> int:
    """Answers `--help`, `--cfg`, `--info` and shell completion; returns the exit code."""
    _check_overrides(line, line.overrides)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's errors then reach us as exceptions
    sys.argv = ["emorec"]  # the name of the command in Hydra's texts
    parser = get_args_parser()
    flags = [flag for flag in line.flags if flag not in ("-m", "--multirun")]  # Hydra prints no multirun
    try:
        options = parser.parse_args([*flags, "--", *_for_hydra(line, line.overrides)])
        with hydra_errors(), _hydra():
            _answer(_Printer("emorec", GlobalHydra.instance().config_loader()), line.config_name, options, parser)
    except SystemExit as ended:  # some flags end Hydra so
        return int(ended.code or 0)
    return 0


def _answer(printer: Hydra, name: str, options: Namespace, parser: ArgumentParser) -> None:
    if options.help:
        printer.app_help(name, parser, options)
    elif options.hydra_help:
        printer.hydra_help(name, parser, options)
    elif options.cfg:
        printer.show_cfg(name, options.overrides, options.cfg, options.package, options.resolve)
    elif options.shell_completion:
        printer.shell_completion(name, options.overrides)
    else:
        printer.show_info(options.info, name, options.overrides)


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra with emorec's configs."""
    register_resolvers()
    register_sources()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder()), job_name="emorec"):
        yield


def quoted(text: str) -> str:
    """A text as a value in Hydra's grammar, whatever is in it."""
    return QuotedString(text, Quote.single).with_quotes()


def _for_hydra(line: CommandLine, overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them, with the user's folder of configs."""
    extra = [] if line.config_dir is None else [f"hydra.searchpath=[{quoted(f'file://{line.config_dir}')}]"]
    return [*map(_override_for_hydra, overrides), *extra]


def _override_for_hydra(override: str) -> str:
    """An experiment is composed at the top, whatever its first line is. A run is a text: 12e4 is no number."""
    key, separator, value = override.partition("=")
    if separator and key.lstrip("+") == "experiment":
        return f"experiment@_global_={value}"
    return f"run={quoted(value)}" if key == "run" and value and value[0] not in "'\"$" else override


def _choices_of(line: CommandLine, overrides: Sequence[str], group: str) -> list[str]:
    """The names that a group of configs has, of emorec and of the user; none where there is no such group."""
    folders = [config_folder(), *([Path(line.config_dir)] if line.config_dir else [])]
    search_paths = [override for override in overrides if override.startswith("hydra.searchpath=")]
    folders += [Path(folder) for override in search_paths for folder in re.findall(r"file://([^',\]]+)", override)]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")}) if group else []


def _check_overrides(line: CommandLine, overrides: Sequence[str]) -> None:
    """Refuses arguments that are no overrides, choices that a group does not have, and a folder that is none."""
    problems = []
    if line.config_dir is not None and not Path(line.config_dir).is_dir():
        problems.append(f"--config-dir: expected a folder, got {line.config_dir!r}")
    for override in overrides:
        key, separator, value = override.partition("=")
        if not key.lstrip("+~") or (not separator and not key.startswith("~")):
            hint = f"; did you mean run={override}?" if line.config_name == "evaluate" and key else ""
            problems.append(f"expected key=value, got {override!r}{hint}")
        known = _choices_of(line, overrides, key.lstrip("+"))
        if known and separator and CHOICES.fullmatch(value):
            names = [name.strip() for name in value.strip("[]").split(",")]
            unknown = [name for name in names if name not in known and not (name == "" and value.startswith("["))]
            problems += [f"{key}: expected a choice in {known}, got {name!r}" for name in unknown]
    raise_problems("the command line", problems)


@contextmanager
def composer(line: CommandLine, schema: type[C]) -> Iterator["Composer[C]"]:
    """Composes configs for a command line."""
    with _hydra():
        yield Composer(line, schema)


class Composer(Generic[C]):
    """Composes configs; see `composer`."""

    def __init__(self, line: CommandLine, schema: type[C]) -> None:
        self.line, self.schema = line, schema

    def compose(self, overrides: Sequence[str]) -> Composed[C]:
        """The config of one job.

        Raises:
            UserError: a choice or a key that does not exist, or a missing value.
        """
        _check_overrides(self.line, overrides)
        with hydra_errors(lambda: self._known_keys(overrides)):
            node = self._composed(overrides)
            choices = {
                group.removesuffix("@_global_"): str(name)
                for group, name in node.hydra.runtime.choices.items()
                if name is not None and not group.startswith("hydra") and "@" not in group.removesuffix("@_global_")
            }
            check_interpolations(_plain(node, resolve=False))
            values = _plain(node, resolve=True)
        check_depth(values, "the config")
        check_config(values)
        return Composed(self.schema, values, choices, list(overrides), self.line.config_name, self.line.config_dir)

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        return compose(self.line.config_name, overrides=_for_hydra(self.line, overrides), return_hydra_config=True)

    def _known_keys(self, overrides: Sequence[str]) -> dict[str, Any]:
        """{dotted key: value} of the config with the choices that overrides make."""
        choices = [word for word in overrides if _choices_of(self.line, overrides, word.partition("=")[0].lstrip("+"))]
        return flat(_plain(self._composed(choices), resolve=False))


def _plain(node: DictConfig, *, resolve: bool) -> dict[str, Any]:
    """A composed config without Hydra's own part; missing values are errors where interpolations are resolved."""
    with open_dict(node):
        node.pop("hydra", None)
    values = OmegaConf.to_container(node, resolve=resolve, throw_on_missing=resolve)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def compose_once(config_name: str, schema: type[C], arguments: Sequence[str]) -> Composed[C] | None:
    """The config of a command that runs once; `None` where Hydra has answered a printing flag.

    Raises:
        UserError: as `Composer.compose`, or `-m` for a command that has no multirun.
    """
    line = parse(config_name, arguments)
    if line.prints_only:
        print_with_hydra(line)
        return None
    if line.multirun:
        raise UserError(f"expected no -m, since emorec {config_name} runs once")
    with composer(line, schema) as open_composer:
        return open_composer.compose(line.overrides)
