"""What is in `conf/`: suites are parametrised by it, so that a new YAML is tested without touching a test."""

from functools import cache
from typing import Any

from emorec.config.composition import composer, parse
from emorec.config.locations import config_folder
from emorec.config.schema import TrainConfig


def names(group: str, *, without: tuple[str, ...] = ("none",)) -> list[str]:
    """The choices of a group such as "fusion" or "encoder/audio", sorted."""
    found = sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))
    assert found, f"expected YAML files in {config_folder() / group}, found none"
    return [name for name in found if name not in without]


def node(group: str, name: str, **changes: Any) -> dict[str, Any]:
    """A choice as `emorec train group=name` composes it: resolved, with `changes` on top."""
    return {**_composed(group, name), **changes}


@cache
def _composed(group: str, name: str) -> dict[str, Any]:
    line = parse("train", [f"{group}={name}"])
    with composer(line, TrainConfig) as open_composer:
        found: Any = open_composer.compose(line.overrides).values
    for part in group.split("/"):
        found = found[part]
    assert isinstance(found, dict)
    return found
