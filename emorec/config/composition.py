"""From a command line to a composed config, through Hydra."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from hydra import compose, initialize_config_dir, main
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from emorec.config.credentials import check_config
from emorec.config.keys import flat
from emorec.config.locations import config_folder, register_resolvers
from emorec.config.schema import CommandConfig
from emorec.config.validation import suggestion, validated
from emorec.errors import UserError, first_line, raise_interruption, raise_problems

C = TypeVar("C", bound=CommandConfig)

# Flags that take a value, and flags that only print something; Hydra answers the latter itself.
WITH_VALUE = {"--config-name", "-cn", "--config-dir", "-cd", "--package", "-p", "--cfg", "-c", "--info", "-i"}
PRINTING = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}
WITH_OPTIONAL_VALUE = {"--info", "-i"}
INFO_CHOICES = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
KNOWN = WITH_VALUE | PRINTING | {"--multirun", "-m", "--resolve", "--run", "-r"}
CHOICES = re.compile(r"[^,\[\](){}$'\"]*|\[[^\[\](){}$'\"]*\]")  # one or a list; no sweep or interpolation
RUN_ID = re.compile("[0-9a-f]+")
MOST_HINTS = 4  # keys of the same name elsewhere that are worth a hint
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
        quoted = name.replace("\\", "\\\\").replace("'", "\\'")
        composed = self.with_values(sweep={**self.values["sweep"], "name": name})
        return replace(composed, overrides=[*self.overrides, f"sweep.name='{quoted}'"])

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
    _check_overrides(line, line.overrides)
    flags = [flag for flag in line.flags if flag not in ("-m", "--multirun")]  # Hydra prints no multirun
    sys.argv = ["emorec", *flags, *map(_for_hydra, line.overrides)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's errors then reach us as exceptions
    try:
        with _hydra_errors():
            main(version_base="1.3", config_path=str(config_folder()), config_name=line.config_name)(lambda _: None)()
    except SystemExit as ended:  # some flags end Hydra so
        return int(ended.code or 0)
    return 0


def _for_hydra(override: str) -> str:
    """An override as Hydra takes it.

    An experiment is composed at the top, whatever its first line is. A run's id stays a text: 12e4 is no number.
    """
    key, separator, value = override.partition("=")
    if separator and key.lstrip("+") == "experiment":
        return f"experiment@_global_={value}"
    return f"run='{value}'" if key == "run" and RUN_ID.fullmatch(value) else override


def _choices_of(line: CommandLine, overrides: Sequence[str], group: str) -> list[str]:
    """The names that a group of configs has, of emorec and of the user; none where there is no such group."""
    folders = [config_folder(), *([Path(line.config_dir)] if line.config_dir else [])]
    search_paths = [override for override in overrides if override.startswith("hydra.searchpath=")]
    folders += [Path(folder) for override in search_paths for folder in re.findall(r"file://([^',\]]+)", override)]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")}) if group else []


def _check_overrides(line: CommandLine, overrides: Sequence[str]) -> None:
    """Refuses arguments that are no overrides, and choices that a group does not have."""
    problems = []
    for override in overrides:
        key, separator, value = override.partition("=")
        if not key or (not separator and not key.startswith("~")):
            problems.append(f"expected key=value, got {override!r}")
        known = _choices_of(line, overrides, key.lstrip("+"))
        if known and separator and CHOICES.fullmatch(value):
            names = [name.strip() for name in value.strip("[]").split(",")]
            unknown = [name for name in names if name not in known and not (name == "" and value.startswith("["))]
            problems += [f"{key}: expected a choice in {known}, got {name!r}" for name in unknown]
    raise_problems("the command line", problems)


@contextmanager
def _hydra_errors(known: Callable[[], Mapping[str, Any]] = dict) -> Iterator[None]:
    """Says what Hydra and OmegaConf refuse in terms of keys; `known` gives {dotted key: value} for hints."""
    try:
        yield
    except MissingMandatoryValue as error:
        key = error.full_key or str(error).rpartition(" ")[2]
        raise UserError(f"{key}: expected a value, got nothing ({key}=…)") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise_interruption(error)
        text = str(error).strip()
        if match := re.search(r"Could not override '([^']+)'", text):
            key = getattr(error.__cause__, "full_key", None) or match[1]
            raise UserError(f"{key}: unknown key{_hint(key, known())}") from error
        if isinstance(error, OmegaConfBaseException) and error.full_key:
            raise UserError(f"{error.full_key}: {first_line(error)}") from error
        if isinstance(error, OverrideParseException):
            text = f"{error.override}: {text}"
        cause = f"\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
        hint = "\nother letters and marks stand in quotes: key=\"'value'\"" if "Lexer" in text else ""
        raise UserError(f"{text}{cause}{hint}") from error


def _hint(key: str, known: Mapping[str, Any]) -> str:
    """The nearest known keys: by the whole key, else by its last name, else those beside it."""
    parent, _, name = key.rpartition(".")
    if known.get(parent) == {}:  # takes any names
        return f"; +{key}=… adds it"
    same_name = [other for other in known if other.rpartition(".")[2] == name]
    if 0 < len(same_name) <= MOST_HINTS:
        return f"; did you mean {' or '.join(same_name)}?"
    beside = [other.removeprefix(f"{parent}.") for other in known if other.startswith(f"{parent}.")] if parent else []
    if not beside:
        return suggestion(key, list(known)).partition("; expected one of")[0]
    hint = suggestion(name, beside, parent)
    takes_more = "_target_" in beside and "expected one of" in hint
    return f"{hint}; +{key}=… gives an argument that the YAML file does not list" if takes_more else hint


@contextmanager
def composer(line: CommandLine, schema: type[C]) -> Iterator["Composer[C]"]:
    """Composes configs for a command line."""
    register_resolvers()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder()), job_name="emorec"):
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
        with _hydra_errors(lambda: self._known_keys(overrides)):
            node = self._composed(overrides)
            choices = {
                group.removesuffix("@_global_"): str(name)
                for group, name in node.hydra.runtime.choices.items()
                if name is not None and not group.startswith("hydra") and "@" not in group.removesuffix("@_global_")
            }
            values = _plain(node, resolve=True)
        check_config(values)
        return Composed(self.schema, values, choices, list(overrides), self.line.config_name, self.line.config_dir)

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        extra = [] if self.line.config_dir is None else [f"hydra.searchpath=[file://{self.line.config_dir}]"]
        return compose(self.line.config_name, overrides=[*map(_for_hydra, overrides), *extra], return_hydra_config=True)

    def _known_keys(self, overrides: Sequence[str]) -> dict[str, Any]:
        """{dotted key: value} of the config with the choices that overrides make."""
        choices = [word for word in overrides if _choices_of(self.line, overrides, word.partition("=")[0].lstrip("+"))]
        return flat(_plain(self._composed(choices), resolve=False))


def _plain(node: DictConfig, *, resolve: bool) -> dict[str, Any]:
    """A composed config without Hydra's own part; missing values are errors where interpolations are resolved."""
    with open_dict(node):
        node.pop("hydra")
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
