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
    return {**_composed(group)[name], **changes}


@cache
def _composed(group: str) -> dict[str, dict[str, Any]]:
    """{name: node} of the choices of a group, but for those with a value that has to be given; composed at once."""
    overrides = [f"+{group}@choices.{name}={name}" for name in names(group) if "???" not in _text(group, name)]
    line = parse("train", overrides)
    with composer(line, TrainConfig) as open_composer:
        found: Any = open_composer.compose(line.overrides).values
    choices: dict[str, dict[str, Any]] = found["choices"]
    return choices


def _text(group: str, name: str) -> str:
    return (config_folder() / group / f"{name}.yaml").read_text()
