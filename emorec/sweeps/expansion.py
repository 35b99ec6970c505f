"""Expands the overrides of a multirun into jobs, with Hydra's own parser."""

import sys
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from emorec.config.hydra_errors import hydra_errors
from emorec.errors import UserError
from emorec.machine import has_gpu_driver, usable_cores

FOLD = "dataset.fold"
OF_LINES = ("experiment", "sweep.jobs")  # keys that choose the lines of `expand_lines`
FEWEST_JOBS = 4  # fewer jobs do not make up for the seconds in which a second process imports


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """One list of overrides a job: the product of all values given as `a,b`, `range(…)`, `choice(…)` or `glob(…)`.

    Raises:
        UserError: an override does not parse, or asks for continuous values.
    """
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None  # for glob(…) over the names of a group
    parser = OverridesParser.create(config_loader=loader)
    parsed: list[Override] = []
    for override in overrides:
        with hydra_errors():
            parsed += parser.parse_overrides([override])
    try:
        (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except HydraException as error:
        raise UserError(str(error)) from error
    return [list(job) for job in jobs]


def may_fork(overrides: Sequence[str]) -> bool:
    """Whether the jobs of a multirun are likely to be forked; asked before torch, which knows of GPUs, is imported."""
    chosen = [override.partition("=")[2] for override in overrides if override.startswith("launcher=")]
    launcher = chosen[-1] if chosen else "auto"
    if "launcher.start=spawn" in overrides:
        return False
    if launcher == "auto" and (usable_cores() == 1 or len(expand(overrides)) < FEWEST_JOBS):
        return False
    return launcher in ("auto", "local") and sys.platform.startswith("linux") and not has_gpu_driver()


def expand_folds(overrides: Sequence[str], folds: int) -> list[list[str]]:
    """One list of overrides a fold, instead of `dataset.fold=all`; one list, without a fold, if `folds` is 0."""
    others = [override for override in overrides if key_of(override) != FOLD]
    return [[*others, f"{FOLD}={fold}"] for fold in (range(folds) if folds else ("null",))]


def expand_lines(lines: Sequence[str], overrides: Sequence[str], name: str) -> list[list[str]]:
    """One list of overrides for each job of an experiment that stands for several.

    Args:
        lines: the overrides of one job, or of several, separated by spaces.
        overrides: those of the command line, which take the place of a line's; `experiment` chose the lines.
        name: of the sweep.
    """
    own = [override for override in overrides if key_of(override) not in OF_LINES]
    keys = {key_of(override) for override in own}
    named = [] if "sweep.name" in keys else [f"sweep.name={name}"]
    jobs = [
        (*(override for override in job if key_of(override) not in keys), *own, *named)
        for line in lines
        for job in expand(line.split())
    ]
    return [list(job) for job in dict.fromkeys(jobs)]


def key_of(override: str) -> str:
    """The key that an override sets, such as `dataset.fold`."""
    return override.lstrip("+~").partition("=")[0]


def varying(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """The overrides of each job that are not common to all jobs."""
    common = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    return [[override for override in job if override not in common] for job in jobs]
