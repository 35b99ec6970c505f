"""Writes a composed config as an experiment file: what differs from the defaults of `emorec train`."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import OmegaConf

from emorec.config.composition import Composed, Composer
from emorec.config.keys import OPERATIONAL, OPERATIONAL_KEYS, is_location, leaves, nested
from emorec.config.schema import TrainConfig
from emorec.storage.atomic import write_text

Leaves = dict[tuple[str, ...], Any]
OF_A_TRIAL = {"test", "on_running", "rerun", "sweep", "tags", "notes"}  # operational, and not part of the experiment
_NOTHING = object()


@dataclass(frozen=True)
class Experiment:
    """An experiment file.

    Attributes:
        path: of the file.
        command: trains it.
        differences: keys in which it does not compose to the wanted config; none, if all went well.
    """

    path: Path
    command: str
    differences: list[str]


def write_experiment(
    composer: Composer[Any], wanted: Composed[TrainConfig], *, folder: Path, name: str, note: str, keys: Sequence[str]
) -> Experiment:
    """Writes `<folder>/experiment/<name>.yaml`, which composes to a config.

    Args:
        composer: of the command line that the config came from.
        wanted: the config.
        folder: `--config-dir` of the command that trains it.
        name: of the experiment.
        note: the file's second line.
        keys: what the command line or a search set; what follows from it by interpolation is left out.
    """
    trainer = Composer(replace(composer.line, config_name="train", config_dir=None), TrainConfig)
    defaults = trainer.compose([]).choices
    groups = {
        group: choice
        for group, choice in wanted.choices.items()
        if group != "experiment" and _top(group) not in OPERATIONAL and defaults.get(group) != choice
    }
    goal = _defining_leaves(wanted.values)
    set_here = {tuple(key.split(".")) for key in keys}
    values = {path: value for path, value in goal.items() if path in set_here}
    locations = _location_overrides(composer)
    composed = _composed(trainer, composer.line.config_dir, name, _text(groups, values), locations)
    values = {path: goal[path] for path in goal if path in values or composed.get(path, _NOTHING) != goal[path]}
    text = _text(groups, values)
    composed = _composed(trainer, composer.line.config_dir, name, text, locations)
    differing = {path for path in {**goal, **composed} if goal.get(path, _NOTHING) != composed.get(path, _NOTHING)}
    path = folder / "experiment" / f"{name}.yaml"
    command = _command(composer, folder, name)
    write_text(path, f"# {command}\n# {note}\n{text}")
    return Experiment(path, command, sorted(".".join(keys) for keys in differing))


def key_of(override: str) -> str:
    """The key that an override sets, chooses or deletes."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def defining(values: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted key: value} of a config that may change a run's result, except where the corpus lies."""
    dotted = {".".join(path): value for path, value in _defining_leaves(values).items()}
    return {key: value for key, value in dotted.items() if not is_location(key)}


def _defining_leaves(values: Mapping[str, Any]) -> Leaves:
    """{path of keys: value} of all that may change a result."""
    return {
        path: value
        for path, value in leaves(values)
        if path[0] not in OPERATIONAL and path not in OPERATIONAL_KEYS and value != {}
    }


def _top(key: str) -> str:
    return key.partition(".")[0].partition("/")[0]


def _text(groups: Mapping[str, str], values: Leaves) -> str:
    defaults = {"defaults": [{f"override /{group}": choice} for group, choice in sorted(groups.items())]}
    return OmegaConf.to_yaml(OmegaConf.create({**(defaults if groups else {}), **nested(values)}))


def _location_overrides(composer: Composer[Any]) -> list[str]:
    """The overrides that say where things are, which the experiment's command repeats."""
    return [word for word in composer.line.overrides if _top(key_of(word)) in OPERATIONAL - OF_A_TRIAL]


def _composed(
    trainer: Composer[TrainConfig], config_dir: str | None, name: str, text: str, locations: Sequence[str]
) -> Leaves:
    """What an experiment of this text composes to, by its command."""
    with TemporaryDirectory() as folder:
        write_text(Path(folder) / "experiment" / f"{name}.yaml", text)
        folders = [folder, *([config_dir] if config_dir else [])]
        overrides = [_search_path(folders), f"experiment={name}", *locations]
        return _defining_leaves(trainer.compose(overrides).values)


def _search_path(folders: Sequence[str]) -> str:
    return "hydra.searchpath=[{}]".format(",".join(f"'file://{folder}'" for folder in folders))


def _command(composer: Composer[Any], folder: Path, name: str) -> str:
    """The command that trains an experiment, in the same locations."""
    line = composer.line
    where = ["--config-dir", str(folder)]
    if line.config_dir is not None:  # two folders
        where = [_search_path([str(folder), line.config_dir])]
    return shlex.join(["emorec", "train", *where, f"experiment={name}", *_location_overrides(composer)])
