"""The jobs that the overrides of a multirun stand for, by Hydra's own parser."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from emorec.errors import UserError


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """One list of overrides a job: the product of all values given as `a,b`, `range(…)`, `choice(…)` or `glob(…)`.

    Raises:
        UserError: an override does not parse, or asks for continuous values.
    """
    try:
        hydra = GlobalHydra.instance()
        groups = hydra.config_loader() if hydra.is_initialized() else None  # for glob(…) over the names of a group
        parsed = OverridesParser.create(config_loader=groups).parse_overrides(list(overrides))
        (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except HydraException as error:
        raise UserError(str(error)) from error
    return [list(job) for job in jobs]
