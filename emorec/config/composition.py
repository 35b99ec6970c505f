"""From a command line to a composed config, through Hydra."""

import copy
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import Overrides
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from emorec.config.command_line import JOIN, SEVERAL, CommandLine, check_overrides, choices_of, for_hydra, parse, quoted
from emorec.config.credentials import check_config
from emorec.config.hydra_errors import hydra_errors
from emorec.config.interpolations import check_interpolations
from emorec.config.keys import flat
from emorec.config.locations import config_folder, register_resolvers
from emorec.config.schema import CommandConfig, SweepConfig
from emorec.config.sources import register_sources
from emorec.config.validation import validated
from emorec.errors import UserError
from emorec.storage.documents import check_depth

C = TypeVar("C", bound=CommandConfig)

ALL_FOLDS = "all"  # as `dataset.fold`, it stands for every fold of the protocol


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

    @property
    def jobs(self) -> list[str]:
        """The overrides of the jobs that it stands for; empty for a single run.

        Raises:
            UserError: they are no list of texts.
        """
        sweep = self.values.get("sweep") or {}
        return validated(SweepConfig, sweep, heading="sweep").jobs or []

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


class _Printer(Hydra):
    """Answers flags as Hydra does, but builds nothing of a config: Hydra would make its loggers, whatever they are."""

    def compose_config(self, *arguments: Any, **options: Any) -> DictConfig:
        node = super().compose_config(*arguments, **{**options, "with_log_configuration": False})
        check_interpolations(OmegaConf.to_container(node))
        return node


def print_with_hydra(line: CommandLine) -> int:
    """Answers `--help`, `--cfg`, `--info` and shell completion; returns the exit code."""
    check_overrides(line, line.overrides)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's errors then reach us as exceptions
    sys.argv = ["emorec"]  # the name of the command in Hydra's texts
    parser = get_args_parser()
    flags = [flag for flag in line.flags if flag not in ("-m", "--multirun")]  # Hydra prints no multirun
    try:
        options = parser.parse_args([*flags, "--", *for_hydra(line, line.overrides)])
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


@contextmanager
def composer(line: CommandLine, schema: type[C]) -> Iterator["Composer[C]"]:
    """Composes configs for a command line."""
    with _hydra():
        yield Composer(line, schema)


class Composer(Generic[C]):
    """Composes configs; see `composer`."""

    def __init__(self, line: CommandLine, schema: type[C]) -> None:
        self.line, self.schema = line, schema
        self._chosen: dict[tuple[str, ...], DictConfig] = {}  # {overrides that choose files: what those compose to}

    def compose(self, overrides: Sequence[str]) -> Composed[C]:
        """The config of one job.

        Raises:
            UserError: a choice or a key that does not exist, or a missing value.
        """
        check_overrides(self.line, overrides)
        with hydra_errors(lambda: self._known_keys(overrides)):
            node = self._composed(overrides)
            choices = {
                group.removesuffix("@_global_"): str(name)
                for group, name in node.hydra.runtime.choices.items()
                if name is not None and not group.startswith("hydra") and "@" not in group.removesuffix("@_global_")
            }
            if choices.get("loss") == SEVERAL:
                parts = {name: part for name, part in node.loss.items() if isinstance(part, DictConfig)}
                choices["loss"] = JOIN.join(name for name, part in parts.items() if "_target_" in part) or SEVERAL
            check_interpolations(_plain(node, resolve=False))
            values = _plain(node, resolve=True)
        check_depth(values, "the config")
        check_config(values)
        return Composed(self.schema, values, choices, list(overrides), self.line.config_name, self.line.config_dir)

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        """Hydra's config. Jobs of a multirun that make the same choices share what their files compose to."""
        words, name = for_hydra(self.line, overrides), self.line.config_name
        if not self.line.multirun:
            return compose(name, overrides=words, return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        parsed, repository = loader._parse_overrides_and_create_caching_repo(name, words)  # type: ignore[attr-defined]
        # Hydra sets values once the chosen files are merged, whatever the order of the overrides
        values = [item for item in Overrides(repository, parsed).config_overrides if not item.is_hydra_override()]
        choices = tuple(str(item.input_line) for item in parsed if item not in values)
        if choices not in self._chosen:
            self._chosen[choices] = compose(name, overrides=list(choices), return_hydra_config=True)
        node = copy.deepcopy(self._chosen[choices])
        ConfigLoaderImpl._apply_overrides_to_config(values, node)
        return node

    def _known_keys(self, overrides: Sequence[str]) -> dict[str, Any]:
        """{dotted key: value} of the config with the choices that overrides make."""
        choices = [word for word in overrides if choices_of(self.line, overrides, word.partition("=")[0].lstrip("+"))]
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
